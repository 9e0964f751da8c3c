"""Measure associative recall of Titans models: one needle at growing lengths, ablations, depth of the memory.

    python examples/titans_experiments.py --folder titans --plot titans.png
    python examples/titans_experiments.py --folder titans --experiments needle --seeds 0 1 2 --output json

Models of some 30,000 parameters are trained on sequences of 64 tokens, with four pairs of a key and a value among random
values and the keys again at the end, and tested on up to sixteen times as many tokens:

- needle: one pair. The four variants, and the attention of mag without a memory.
- ablation: four pairs. The memory alone (lmm), and without one of its parts, as in table 5 of the paper.
- depth: eight pairs. The memory alone, with an MLP of 1 to 4 layers.

If the process is killed, the same command continues: each line of `EXPERIMENT.jsonl` is a trained and tested model, and the
folder `runs` holds the checkpoints. Experiments of one folder may run in parallel.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from titans_data import Recall
from titans_plot import plot_experiments
from titans_training import OtherRunError, Trainer, Training, evaluate

from memagent.backends.neural.titans import TitansConfig

MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "memory_depth": 1,
    "memory_width": 32,
    "chunk_size": 16,
    "window": 16,
    "persistent_tokens": 4,
}
PAIRS = 4  # in a training sequence
LENGTHS = (64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Experiment:
    """Models to compare on one task.

    Attributes:
        title: The heading of its table and panel.
        test_pairs: Pairs in a test sequence.
        models: The differences of each model from `MODEL`, by the model's name.
    """

    title: str
    test_pairs: int
    models: Mapping[str, Mapping[str, Any]]


EXPERIMENTS = {
    "needle": Experiment(
        "One needle",
        test_pairs=1,
        models={
            "MAC": {"variant": "mac"},
            "MAG": {"variant": "mag"},
            "MAL": {"variant": "mal"},
            "LMM": {"variant": "lmm"},
            "attention only": {"variant": "mag", "memory": False},
        },
    ),
    "ablation": Experiment(
        "LMM without one part, four pairs",
        test_pairs=4,
        models={
            "LMM": {"variant": "lmm"},
            "no decay": {"variant": "lmm", "decay": False},
            "no momentum": {"variant": "lmm", "momentum": False},
            "no convolution": {"variant": "lmm", "convolution": False},
            "no persistent": {"variant": "lmm", "persistent_tokens": 0},
        },
    ),
    "depth": Experiment(
        "LMM by depth of its memory, eight pairs",
        test_pairs=8,
        models={
            "1 layer": {"variant": "lmm"},
            **{f"{depth} layers": {"variant": "lmm", "memory_depth": depth} for depth in (2, 3, 4)},
        },
    ),
}


class Results:
    """The lines of an experiment's file: its settings, then one trained and tested model each.

    Raises:
        OtherRunError: The file has other settings, or is not a file of results.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        settings = json.loads(json.dumps(settings))
        content = path.read_bytes() if path.exists() else b""
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            path.write_bytes(complete)  # a killed process left part of a line
        try:
            head, *self.rows = [json.loads(line) for line in complete.splitlines()] or [None]
        except ValueError as error:
            raise OtherRunError(f"{path} is not a file of results: {error}") from error
        if head is None:
            self._append(settings)
        elif head != settings:
            raise OtherRunError(
                f"{path} has other settings. Use another --folder, or the settings the run began with."
            )

    def has(self, name: str, seed: int) -> bool:
        return any((row["name"], row["seed"]) == (name, seed) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self._append(row)
        self.rows.append(row)

    def _append(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def run(options: argparse.Namespace, training: Training, results: Mapping[str, Results]) -> None:
    """Train and test every model that the results lack."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        missing = list(_missing(options, results))
        models_task = progress.add_task("Models", total=len(missing))
        for key, name, seed in missing:
            experiment = EXPERIMENTS[key]
            differences = experiment.models[name]
            source = Recall(PAIRS, seed=seed)
            config = TitansConfig(vocab_size=source.vocabulary, **{**MODEL, **differences})
            label = "-".join(f"{option}={value}" for option, value in sorted(differences.items()))
            folder = options.folder / "runs" / f"{label}-seed={seed}"
            start = time.monotonic()
            trainer = Trainer(folder, config, source, replace(training, seed=seed), {"pairs": PAIRS})
            task = progress.add_task(f"{name}, seed {seed}", total=training.steps, completed=trainer.step)
            trainer.run(100, lambda _, task=task: progress.advance(task))  # type: ignore[misc]
            test_source = Recall(experiment.test_pairs, seed=seed)
            accuracy = {
                str(length): evaluate(trainer.bare, test_source, length, options.test_sequences)["accuracy"]
                for length in LENGTHS
            }
            last_losses = trainer.losses[-50:]
            results[key].add(
                {
                    "name": name,
                    "seed": seed,
                    "loss": round(sum(last_losses) / len(last_losses), 4),
                    "accuracy": accuracy,
                    "seconds": round(time.monotonic() - start, 1),
                }
            )
            progress.remove_task(task)
            progress.advance(models_task)


def _missing(options: argparse.Namespace, results: Mapping[str, Results]) -> Iterator[tuple[str, str, int]]:
    for seed in options.seeds:
        for key, rows in results.items():
            for name in EXPERIMENTS[key].models:
                if not rows.has(name, seed):
                    yield key, name, seed


def summarise(settings: Mapping[str, Any], results: Mapping[str, Results]) -> dict[str, Any]:
    """Return the accuracy of every model at every length: mean, lowest and highest of all seeds."""
    experiments: dict[str, Any] = {}
    for key, experiment_results in results.items():
        runs = experiments[EXPERIMENTS[key].title] = {}
        for name in EXPERIMENTS[key].models:
            rows = [row["accuracy"] for row in experiment_results.rows if row["name"] == name]
            if rows:
                runs[name] = {str(length): _spread([row[str(length)] for row in rows]) for length in LENGTHS}
    models = {key: experiment_results.rows for key, experiment_results in results.items()}
    return {"settings": settings, "experiments": experiments, "models": models}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": sum(values) / len(values), "low": min(values), "high": max(values)}


def print_report(summary: Mapping[str, Any]) -> None:
    """Print a table for each experiment: accuracy in percent."""
    console = Console()
    for title, runs in summary["experiments"].items():
        table = Table(title=f"{title}: accuracy, % (chance {summary['settings']['chance']:.0%})")
        table.add_column("tokens")
        for length in LENGTHS:
            table.add_column(str(length), justify="right")
        for name, accuracy in runs.items():
            table.add_row(name, *(f"{100 * spread['mean']:.1f}" for spread in accuracy.values()))
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    training = Training(options.steps, options.batch, min(LENGTHS), options.learning_rate)
    settings = {
        "model": MODEL,
        "training": asdict(training),
        "test_sequences": options.test_sequences,
        "chance": 1 / Recall(1).values,
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        results = {
            key: Results(
                options.folder / f"{key}.jsonl", {**settings, "experiment": asdict(EXPERIMENTS[key])}
            )
            for key in options.experiments
        }
        run(options, training, results)
    except OtherRunError as error:
        sys.exit(str(error))
    summary = summarise(settings, results)
    if options.output == "json":
        print(json.dumps(summary, indent=2))
    else:
        print_report(summary)
    if options.plot:
        plot_experiments(summary, options.plot)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="results and checkpoints; a run in it continues"
    )
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=1000, help="updates of each model")
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--batch", type=int, default=32, help="sequences per update")
    parser.add_argument("--test-sequences", type=int, default=128, help="test sequences for each length")
    parser.add_argument("--plot", type=Path, help="write a plot to this .png file")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
