"""Train a Titans language model on your own texts, or on a synthetic recall task.

    python examples/titans_train.py text book.txt notes/*.md --folder book --variant mag --steps 5000
    python examples/titans_train.py recall --folder recall --variant lmm --pairs 4 --length 64 --steps 1000
    python examples/titans_train.py needle --folder needle --length 128 --set memory_depth=1 --set window=16
    accelerate launch --num_processes 2 examples/titans_train.py text book.txt --folder book

Texts are read as bytes, so no tokenizer is needed. In `recall`, keys and their values are placed among random values, and the
model has to answer each key with its value at the end; `needle` has one such pair. If the process is killed, the same command
continues from the last checkpoint. The folder then holds `loss.png` and `step-N/model`, which
`AutoModelForCausalLM.from_pretrained` loads once `memagent.backends.neural.titans` is imported.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from titans_data import DataError, Recall, Source, Text
from titans_plot import plot_losses
from titans_training import OtherRunError, Trainer, Training, evaluate

from memagent.backends.neural.titans import TitansConfig

TASKS = ("text", "recall", "needle")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    try:
        source = source_of(options)
        config = TitansConfig(
            variant=options.variant, vocab_size=source.vocabulary, **dict(map(setting, options.set))
        )
        training = Training(
            options.steps, options.batch, options.length, options.learning_rate, seed=options.seed
        )
        source.batch(0, 1, training.length)
        about = {"task": options.task, "files": list(map(str, options.files)), "pairs": options.pairs}
        trainer = Trainer(options.folder, config, source, training, about)
    except (DataError, OtherRunError, ValueError) as error:
        sys.exit(str(error))
    run(trainer, options.save_every)
    if not trainer.accelerator.is_main_process:
        return
    summary = summarise(trainer, source, options)
    plot_losses(trainer.losses, options.folder / "loss.png", options.folder.name)
    if options.output == "json":
        print(json.dumps(summary, indent=2))
    else:
        print_summary(summary)


def source_of(options: argparse.Namespace) -> Source:
    """Return the source of batches of the task."""
    if options.task == "text":
        if not options.files:
            raise DataError("The task text needs files to read.")
        return Text(options.files, options.seed)
    if options.files:
        raise DataError(f"The task {options.task} makes its own sequences and reads no files.")
    return Recall(1 if options.task == "needle" else options.pairs, seed=options.seed)


def setting(text: str) -> tuple[str, Any]:
    """Parse ``name=value`` of a `TitansConfig`.

    Raises:
        ValueError: The name is unknown, or the value has another type.
    """
    name, _, value = text.partition("=")
    defaults = TitansConfig()
    if name in ("variant", "vocab_size") or not hasattr(defaults, name) or not value:
        raise ValueError(
            f"--set {text}: expected name=value, with the name of a hyperparameter of TitansConfig"
        )
    try:
        parsed_value = json.loads(value)
    except ValueError:
        parsed_value = value
    expected = type(getattr(defaults, name))
    if not isinstance(parsed_value, expected) and not (expected is float and type(parsed_value) is int):
        raise ValueError(f"--set {text}: expected a value of type {expected.__name__}")
    return name, expected(parsed_value)


def run(trainer: Trainer, save_every: int) -> None:
    """Train, with a progress bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    hidden = not (console.is_terminal and trainer.accelerator.is_main_process)
    with Progress(*columns, console=console, disable=hidden) as progress:
        task = progress.add_task(
            "Training", total=trainer.training.steps, completed=trainer.step, loss=float("nan")
        )
        trainer.run(save_every, lambda loss: progress.update(task, advance=1, loss=loss))


def summarise(trainer: Trainer, source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """Return the results of the training, on unseen sequences."""
    test = evaluate(trainer.bare, source, options.length, options.test_sequences)
    last_losses = trainer.losses[-50:]
    summary: dict[str, Any] = {
        "folder": str(options.folder),
        "task": options.task,
        "variant": options.variant,
        "parameters": sum(parameter.numel() for parameter in trainer.bare.parameters()),
        "steps": trainer.step,
        "training_loss": sum(last_losses) / max(len(last_losses), 1),
        "test_loss": test["loss"],
        "test_accuracy": test["accuracy"],
    }
    if isinstance(source, Text):
        summary["test_bits_per_byte"] = test["loss"] / math.log(2)
        prompt, _ = source.batch(0, 1, min(options.length, 64))
        generate: Any = trainer.bare.generate
        torch.manual_seed(options.seed)
        sample = generate(prompt.to(trainer.bare.device), max_new_tokens=120, do_sample=True, top_k=20)
        summary["sample"] = bytes(sample[0].tolist()).decode("utf-8", "replace")
    return summary


def print_summary(summary: dict[str, Any]) -> None:
    """Print the summary as a table."""
    table = Table(show_header=False)
    for name, value in summary.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else f"{value}")
    Console().print(table)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("files", type=Path, nargs="*", help="texts, for the task text")
    parser.add_argument(
        "--folder", type=Path, required=True, help="checkpoints and plot; a run in it continues"
    )
    parser.add_argument("--variant", choices=("mac", "mag", "mal", "lmm"), default="mac")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter of TitansConfig"
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16, help="sequences per update, in each process")
    parser.add_argument("--length", type=int, default=128, help="tokens per sequence")
    parser.add_argument("--pairs", type=int, default=4, help="pairs to recall, for the task recall")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and sample")
    parser.add_argument("--save-every", type=int, default=100, help="updates between checkpoints")
    parser.add_argument("--test-sequences", type=int, default=64)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    for name in ("steps", "batch", "length", "save_every", "test_sequences"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    return options


if __name__ == "__main__":
    main()
