"""Train the autoencoder of `context_bank` that is shipped, and measure what its latents keep at other ratios.

    python benchmarks/fit_context_bank.py Synthetic-Persona-Chat_valid.csv Synthetic-Persona-Chat_test.csv --output folder
    python benchmarks/fit_context_bank.py ... --ratio 4 8 16 32 100

Reads 3,600 utterances of persona dialogues (google/Synthetic-Persona-Chat, CC BY 4.0) with the model; takes a quarter of an hour for
half a billion parameters on two cores. The texts read are kept in the output folder, so that further ratios take minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from memagent.agent.home import Home
from memagent.agent.models.embedding import load_embedder
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.context_bank import training
from memagent.backends.context_bank.config import ContextBankConfig
from memagent.backends.neural.context_bank.weights import card_of
from memagent.backends.protocol import Resources

UTTERANCES = 3600
MIN_WORDS = 5
CONSOLE = Console(stderr=True)


def utterances(files: Sequence[Path]) -> list[str]:
    """Return a seeded draw of the distinct utterances of persona dialogues."""
    texts = []
    for file in files:
        with file.open(encoding="utf-8", newline="") as rows:
            for row in list(csv.reader(rows))[1:]:
                for line in row[2].splitlines():
                    _, _, said = line.partition(": ")
                    if len(said.split()) >= MIN_WORDS:
                        texts.append(said.strip())
    texts = list(dict.fromkeys(texts))
    np.random.default_rng(0).shuffle(texts)
    return texts[:UTTERANCES]


def main() -> None:
    """Train and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", help="CSV files of Synthetic-Persona-Chat")
    parser.add_argument("--output", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--ratio", type=int, nargs="+", default=[16])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = arguments.output / "utterances.txt"
    text.write_text("\n".join(utterances(arguments.files)) + "\n", encoding="utf-8")
    models = Home.from_environment().models
    local = as_local(load_chat_model(arguments.model, models, notify=CONSOLE.print))
    resources = Resources(
        workspace=arguments.output,
        make_embedder=lambda: load_embedder(models, notify=CONSOLE.print),
        make_model=lambda: local,
        progress=lambda items, *, total, label: track(items, label, total=total, console=CONSOLE),
        cache=arguments.output,
    )
    for ratio in arguments.ratio:
        path = training.train(ContextBankConfig(ratio=ratio, text=str(text)), resources, keep=True)
        print(json.dumps({"file": path.name, "bytes": path.stat().st_size, **card_of(path)}))


if __name__ == "__main__":
    main()
