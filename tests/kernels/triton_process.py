"""Scripts that run kernels in Triton: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed: pip install triton"
)


def run_with_triton(script: str, *arguments: str) -> None:
    """Run a Python script in a process of its own, because Triton reads TRITON_INTERPRET when it is imported."""
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr


def tensors_with_triton(script: str, folder: Path) -> dict[str, Tensor]:
    """Run a script that saves tensors in the safetensors file it is given as its argument; return them by name."""
    path = folder / "results.safetensors"
    run_with_triton(script, str(path))
    return load_file(path)
