"""Public memory benchmarks in their authors' formats."""

from collections.abc import Callable
from pathlib import Path

from memagent.agent.evaluation.datasets import locomo, longmemeval
from memagent.agent.evaluation.datasets.dataset import Dataset

LOADERS: dict[str, Callable[[Path], Dataset]] = {"locomo": locomo.load, "longmemeval": longmemeval.load}
"""How the file of each benchmark is read, by the benchmark's name."""

__all__ = ["LOADERS", "Dataset"]
