"""Training the autoencoder of a model on lines of text: `memagent backends train context_bank`.

Reading the texts with the model takes most of the time. What was read is kept beside the result until that is complete, so that an
interrupted training continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memagent.backends.context_bank.config import ContextBankConfig
from memagent.backends.context_bank.latents import line_span
from memagent.backends.context_bank.weights import file_name, find
from memagent.backends.errors import InputError, SettingError
from memagent.backends.neural.context_bank import weights
from memagent.backends.neural.context_bank.closed_form import TrainingTexts, fit_closed_form
from memagent.backends.neural.context_bank.config import LatentConfig
from memagent.backends.neural.context_bank.quality import measure
from memagent.backends.neural.context_bank.training import Losses, Training, TrainingSettings
from memagent.backends.protocol import LocalModel, Resources
from memagent.backends.records import TrainingPlan
from memagent.backends.shared.attention.chunks import TokenSpan, TurnTokenizer
from memagent.backends.shared.attention.hidden_states import HiddenStateReader
from memagent.backends.shared.tensors import save_tensors

MAX_TEXTS = 4000
"""Most texts that are read; those of longer files are drawn by chance."""
MIN_TEXTS = 200
_MIN_WORDS = 5
_SHARD = 64
_HELD_OUT = 10
"""One text in so many measures the reconstruction and is not trained on."""
_SAMPLE = 4
_STEPS_A_MINUTE = 200.0
"""Of the gradient steps, for a model of 900 components on two CPU cores."""
_BYTES_A_TOKEN = 2


def plan(config: ContextBankConfig, resources: Resources) -> TrainingPlan:
    """Return what training takes, judged by reading a few of the texts.

    Raises:
        SettingError: no file of text is named, or the model is of no supported family.
        InputError: a file cannot be read, or holds too few texts.
    """
    local = resources.local_model
    done = find(local, config.ratio, resources.cache) is not None
    summary = f"Trains the context bank's autoencoder for {local.name}, {config.ratio} tokens a vector"
    if done:
        return TrainingPlan(f"{summary}.", 0.0, 0, done=True)
    texts = read_texts(config.text, resources.seed)
    reader, spans = HiddenStateReader(local), _spans(local, texts)
    began = time.monotonic()
    list(reader.read(spans[:_SAMPLE]))
    seconds = (time.monotonic() - began) * len(texts) / _SAMPLE
    sizes = _sizes(reader.table, config)
    states = sum(len(span.ids) for span in spans) * sizes.hidden_size * _BYTES_A_TOKEN
    return TrainingPlan(
        summary=f"{summary}, on {len(texts)} texts, by the embedder {resources.embedder.name}.",
        minutes=seconds / 60 + TrainingSettings().steps / _STEPS_A_MINUTE,
        bytes=states + 2 * sizes.hidden_size * sizes.ratio * sizes.features,
    )


def train(
    config: ContextBankConfig,
    resources: Resources,
    *,
    settings: TrainingSettings | None = None,
    keep: bool = False,
) -> Path:
    """Train the autoencoder of the local model, and write it with its card to ``resources.cache``.

    Args:
        config: the ratio and the text.
        resources: the model, the embedder, and the folder.
        settings: of the gradient steps.
        keep: keep what the model read, for the training of another ratio.

    Returns:
        Its file.

    Raises:
        SettingError, InputError: as ``plan`` does; or there is no folder for models.
    """
    local = resources.local_model
    if resources.cache is None:
        raise SettingError("Training needs a folder that outlives it; there is no folder for models.")
    texts = read_texts(config.text, resources.seed)
    path = resources.cache / file_name(local, config.ratio)
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    folder = path.with_name(f"context_bank-{local.digest[:16]}-{digest[:16]}.training")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    read = _read(local, texts, folder, resources)
    held_out = [place for place in range(len(texts)) if place % _HELD_OUT == 0]
    trained_on = [place for place in range(len(texts)) if place % _HELD_OUT]
    table: torch.Tensor = local.model.get_input_embeddings().weight.detach().cpu()
    generator = torch.Generator().manual_seed(resources.seed)
    fitting, measured = _selected(read, trained_on), _selected(read, held_out)
    sizes = _sizes(table, config)
    autoencoder = fit_closed_form(sizes, fitting, table, generator)
    with torch.no_grad():
        closed_form = measure(autoencoder, measured.ids, measured.last, measured.lengths, table)
    settings = settings or TrainingSettings(seed=resources.seed)
    run = Training(autoencoder, fitting, table, settings)
    checkpoint = folder / f"steps-{config.ratio}.safetensors"
    run.resume(checkpoint)
    for _ in resources.progress(run.steps(checkpoint), total=settings.steps - run.step, label="Training"):
        pass
    autoencoder.requires_grad_(False)
    card = {
        "model": local.name,
        "model_digest": local.digest,
        "texts": len(trained_on),
        "texts_sha256": digest,
        "embedder": resources.embedder.name,
        "seed": resources.seed,
        "settings": asdict(settings),
        "held_out": asdict(measure(autoencoder, measured.ids, measured.last, measured.lengths, table)),
        "held_out_closed_form": asdict(closed_form),
        "last_losses": asdict(run.history[-1]) if run.history else {},
    }
    temporary = path.with_suffix(".new")
    weights.save(autoencoder, temporary, card)
    temporary.chmod(0o600)
    temporary.replace(path)
    _write_losses(run.history, path)
    if not keep:
        shutil.rmtree(folder)
    return path


def read_texts(names: str, seed: int) -> list[str]:
    """Return the lines of files that are long enough, each once; a seeded draw if there are more than ``MAX_TEXTS``.

    Args:
        names: of the files, separated by commas.
        seed: of the draw.

    Raises:
        SettingError: no file is named.
        InputError: a file cannot be read, or there are too few lines.
    """
    files = [Path(name.strip()).expanduser() for name in names.split(",") if name.strip()]
    if not files:
        raise SettingError(
            "Training reads text, one text a line: name the files, for instance `--set context_bank.text=talk.txt`. Talk between "
            "people suits best."
        )
    lines: dict[str, None] = {}
    for file in files:
        try:
            content = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read as UTF-8 text: {error}") from error
        lines |= dict.fromkeys(
            line.strip() for line in content.splitlines() if len(line.split()) >= _MIN_WORDS
        )
    if len(lines) < MIN_TEXTS:
        raise InputError(
            f"{names} has {len(lines)} lines of {_MIN_WORDS} words or more; {MIN_TEXTS} are the least, some thousand are better."
        )
    texts = sorted(lines)
    drawn = np.random.default_rng(seed).permutation(len(texts))[:MAX_TEXTS]
    return [texts[place] for place in drawn.tolist()]


def _sizes(table: torch.Tensor, config: ContextBankConfig) -> LatentConfig:
    """Return the sizes of the autoencoder.

    Raises:
        SettingError: a latent of the model has no room for so many tokens.
    """
    try:
        return LatentConfig.of(table.shape[1], config.ratio)
    except ValueError as error:
        raise SettingError(f"context_bank: ratio={config.ratio} does not fit the model. {error}") from error


def _spans(local: LocalModel, texts: Sequence[str]) -> list[TokenSpan]:
    tokenizer = TurnTokenizer(local.tokenizer)
    return [line_span(tokenizer, text) for text in texts]


def _read(local: LocalModel, texts: list[str], folder: Path, resources: Resources) -> TrainingTexts:
    """Read the texts with the model, in parts that are kept in a folder."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    reader, spans = HiddenStateReader(local), _spans(local, texts)
    parts: list[dict[str, torch.Tensor]] = []
    starts = range(0, len(spans), _SHARD)
    for start in resources.progress(starts, total=len(starts), label="Reading the texts with the model"):
        file = folder / f"{start:06}.safetensors"
        with suppress(OSError, SafetensorError):
            parts.append(load_file(file))
            continue
        states = list(reader.read(spans[start : start + _SHARD]))
        part = {
            "ids": torch.cat([state.ids for state in states]),
            "last": torch.cat([state.last for state in states]).half(),
            "lengths": torch.tensor([len(state.ids) for state in states]),
        }
        save_tensors(part, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)
        parts.append(part)
    return TrainingTexts(
        torch.cat([part["ids"] for part in parts]),
        torch.cat([part["last"] for part in parts]),
        torch.cat([part["lengths"] for part in parts]).tolist(),
        torch.from_numpy(np.asarray(resources.embedder.embed(texts))),
    )


def _selected(texts: TrainingTexts, places: Sequence[int]) -> TrainingTexts:
    ids, last = torch.split(texts.ids, texts.lengths), torch.split(texts.last, texts.lengths)
    return TrainingTexts(
        torch.cat([ids[place] for place in places]),
        torch.cat([last[place] for place in places]),
        [texts.lengths[place] for place in places],
        texts.targets[list(places)],
    )


def _write_losses(losses: Sequence[Losses], path: Path) -> None:
    """Write the losses as JSON lines, and as a plot where matplotlib is installed."""
    rows: list[dict[str, Any]] = [asdict(loss) for loss in losses]
    path.with_suffix(".losses.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    with suppress(ImportError):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for name in ("first", "last", "tokens", "key", "divergence"):
            axes.plot([row[name] for row in rows], label=name, linewidth=1)
        axes.set(
            xlabel="step", ylabel="loss (nats an element; key: squared error of cosines)", title=path.stem
        )
        axes.legend()
        figure.savefig(path.with_suffix(".png"), dpi=120)
