"""Train the autoencoder of `context_bank` that is shipped, and measure what its latents keep at other ratios.

    python benchmarks/fit_context_bank.py Synthetic-Persona-Chat_valid.csv Synthetic-Persona-Chat_test.csv --output folder
    python benchmarks/fit_context_bank.py ... --ratio 4 8 16 32 100 --steps 0 --held-out wikitext.txt --plot ratios.png

``--steps 0`` stops at the closed form, where training starts; ``--held-out`` measures on other text, too.
Reads 3,600 utterances of persona dialogues (google/Synthetic-Persona-Chat, CC BY 4.0) with the model; takes a quarter of an hour for
half a billion parameters on two cores. The texts read are kept in the output folder, so that further ratios take minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from memagent.agent.home import Home
from memagent.agent.models.embedding import load_embedder
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.context_bank import training
from memagent.backends.context_bank.config import ContextBankConfig
from memagent.backends.context_bank.latents import line_span
from memagent.backends.neural.context_bank.autoencoder import LatentAutoencoder, nearest_tokens
from memagent.backends.neural.context_bank.quality import measure, rounded
from memagent.backends.neural.context_bank.training import TrainingSettings
from memagent.backends.neural.context_bank.weights import card_of, load
from memagent.backends.protocol import LocalModel, Resources
from memagent.backends.shared.attention.chunks import TurnTokenizer
from memagent.backends.shared.attention.hidden_states import HiddenStateReader

UTTERANCES = 3600
PARAGRAPHS = 20
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


def on_other_text(local: LocalModel, autoencoder: LatentAutoencoder, file: Path) -> dict[str, Any]:
    """Return how well the first paragraphs of a text are reconstructed, with the beginning of one as an example."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if len(line.split()) >= 20]
    reader, tokenizer = HiddenStateReader(local), TurnTokenizer(local.tokenizer)
    states = list(reader.read([line_span(tokenizer, line) for line in lines[:PARAGRAPHS]]))
    quality = measure(
        autoencoder,
        torch.cat([state.ids for state in states]),
        torch.cat([state.last for state in states]),
        [len(state.ids) for state in states],
        reader.table,
    )
    latents = rounded(autoencoder.encode(states[0].first, states[0].last))
    ids, _ = nearest_tokens(
        autoencoder.decode(latents).codes.flatten(0, 1), autoencoder.table_codes(reader.table)
    )
    example = local.tokenizer.decode(ids[: len(states[0].ids)].tolist())
    return {"other_text": asdict(quality), "example": example}


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw token accuracy and cosines against the ratio."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    ratios = [row["ratio"] for row in rows]
    for part, style in (("held_out", "-"), ("other_text", "--")):
        for place, name in enumerate(("token_accuracy", "cosine_first", "cosine_last")):
            if all(part in row for row in rows):
                label = f"{name.replace('_', ' ')}, {'held-out talk' if part == 'held_out' else 'other text'}"
                values = [row[part][name] for row in rows]
                axes.plot(ratios, values, style, marker="o", color=f"C{place}", label=label)
    axes.set(xscale="log", xlabel="tokens in a latent vector", ylabel="share, cosine", ylim=(0, 1.03))
    axes.set_xticks(ratios, [str(ratio) for ratio in ratios])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Train and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", help="CSV files of Synthetic-Persona-Chat")
    parser.add_argument("--output", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--ratio", type=int, nargs="+", default=[16])
    parser.add_argument("--steps", type=int, default=TrainingSettings().steps, help="gradient steps")
    parser.add_argument("--held-out", type=Path, help="a text to measure on, a paragraph a line")
    parser.add_argument("--plot", type=Path, help="a PNG of token accuracy and cosines by ratio")
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
    rows = []
    for ratio in arguments.ratio:
        path = training.train(
            ContextBankConfig(ratio=ratio, text=str(text)),
            resources,
            settings=TrainingSettings(steps=arguments.steps),
            keep=True,
        )
        row = {"ratio": ratio, "file": path.name, "bytes": path.stat().st_size, **card_of(path)}
        if arguments.held_out:
            row |= on_other_text(local, load(path), arguments.held_out)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
