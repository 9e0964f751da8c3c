"""Train a Titans model, step by step, so that a killed run continues from its last checkpoint."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from titans_data import IGNORED, TESTING, Source
from torch.optim import AdamW, Optimizer
from transformers.utils.logging import disable_progress_bar

from memagent.backends.neural.titans import TitansConfig, TitansForCausalLM

_WEIGHTS = "model"
_MOMENTS = "optimizer.safetensors"
_PROGRESS = "progress.json"


class OtherRunError(Exception):
    """The folder holds a run with other settings."""


@dataclass(frozen=True)
class Training:
    """Settings of a training run.

    Attributes:
        steps: Number of updates.
        batch: Sequences per update, in each process.
        length: Tokens per sequence.
        learning_rate: The highest one. It is reached after a twentieth of the steps, then falls to a tenth along a cosine.
        weight_decay: Of AdamW.
        seed: Of the initial weights; the source has its own.
    """

    steps: int = 1000
    batch: int = 32
    length: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; the first step is 0."""
        warmup = max(self.steps // 20, 1)
        decay = 0.55 + 0.45 * math.cos(math.pi * step / max(self.steps, 1))
        return self.learning_rate * min((step + 1) / warmup, 1.0) * decay


class Trainer:
    """A training run in a folder of its own.

    The folder holds ``settings.json`` and the newest checkpoint, ``step-N``. A checkpoint is written under another name and then
    renamed, so that it is never incomplete.

    Args:
        folder: The run's folder, which is created if it is missing. A checkpoint in it is continued.
        config: The model's hyperparameters.
        source: The source of batches.
        training: Settings of the training.
        about: Further settings that the result depends on.

    Raises:
        OtherRunError: The folder holds a run with other settings.
    """

    def __init__(
        self,
        folder: Path,
        config: TitansConfig,
        source: Source,
        training: Training,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.source, self.training = folder, source, training
        self.losses: list[float] = []
        disable_progress_bar()  # type: ignore[no-untyped-call]  # of writing checkpoints
        self.accelerator = Accelerator()
        with self.accelerator.main_process_first():
            _check_settings(
                folder, {"model": config.to_diff_dict(), "training": asdict(training), **(about or {})}
            )
        set_seed(training.seed)
        saved = self._newest()
        self.bare: Any = (
            TitansForCausalLM(config)
            if saved is None
            else TitansForCausalLM.from_pretrained(saved / _WEIGHTS)
        )
        optimizer = AdamW(self.bare.parameters(), training.learning_rate, weight_decay=training.weight_decay)
        if saved is not None:
            self.losses = json.loads((saved / _PROGRESS).read_text(encoding="utf-8"))["losses"]
            restore(optimizer, self.bare, saved / _MOMENTS)
        self.model, self.optimizer = self.accelerator.prepare(self.bare, optimizer)

    @property
    def step(self) -> int:
        """The number of updates so far."""
        return len(self.losses)

    def run(self, save_every: int, on_update: Callable[[float], None]) -> None:
        """Train until all steps are done.

        Args:
            save_every: Updates between two checkpoints.
            on_update: Called after every update with its loss, in nats per label.
        """
        self.model.train()
        while self.step < self.training.steps:
            loss = self._update()
            self.losses.append(loss)
            on_update(loss)
            if self.step % save_every == 0 or self.step == self.training.steps:
                self.save()

    def _update(self) -> float:
        accelerator, training = self.accelerator, self.training
        number = self.step * accelerator.num_processes + accelerator.process_index
        ids, labels = self.source.batch(number, training.batch, training.length)
        loss = self.model(ids.to(accelerator.device), labels=labels.to(accelerator.device)).loss
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = training.rate(self.step)
        # A deep memory may overflow on a batch; a step along its gradients would turn the whole model into NaN.
        if norm is not None and bool(norm.isfinite()):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return float(accelerator.reduce(loss.detach(), "mean"))

    def save(self) -> None:
        """Write a checkpoint, then remove older ones."""
        if not self.accelerator.is_main_process:
            return
        checkpoint = self.folder / f"step-{self.step}"
        part = self.folder / f".{checkpoint.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        self.bare.save_pretrained(part / _WEIGHTS)
        save_file(moments(self.optimizer, self.bare), part / _MOMENTS)
        (part / _PROGRESS).write_text(json.dumps({"losses": self.losses}), encoding="utf-8")
        for path in part.rglob("*"):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
        part.rename(checkpoint)
        for path in self.folder.glob("step-*"):
            if path != checkpoint:
                shutil.rmtree(path)

    def _newest(self) -> Path | None:
        checkpoints = [path for path in self.folder.glob("step-*") if path.name[5:].isdigit()]
        return max(checkpoints, key=lambda path: int(path.name[5:]), default=None)


def moments(optimizer: Optimizer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return AdamW's state of each parameter, by the parameter's name."""
    return {
        f"{name}|{kind}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state[parameter].items()
    }


def restore(optimizer: Optimizer, model: torch.nn.Module, path: Path) -> None:
    """Load the state that `moments` returned into AdamW."""
    saved = load_file(path)
    for name, parameter in model.named_parameters():
        kinds = ("step", "exp_avg", "exp_avg_sq")
        if f"{name}|step" in saved:  # absent before the first update
            optimizer.state[parameter] = {kind: saved[f"{name}|{kind}"] for kind in kinds}


@torch.no_grad()
def evaluate(model: Any, source: Source, length: int, sequences: int, batch: int = 16) -> dict[str, float]:
    """Return loss and accuracy on unseen sequences.

    Returns:
        ``loss``, in nats per label, and ``accuracy``, the share of labels that the model gives the highest probability.
    """
    model.eval()
    correct = label_count = 0
    loss = 0.0
    for number in range(-(-sequences // batch)):
        ids, labels = source.batch(number, batch, length, TESTING)
        logits = model(ids.to(model.device), use_cache=False).logits[:, :-1].float().cpu()
        mask = labels[:, 1:] != IGNORED
        expected = labels[:, 1:][mask]
        loss += torch.nn.functional.cross_entropy(logits[mask], expected, reduction="sum").item()
        correct += int((logits[mask].argmax(-1) == expected).sum())
        label_count += len(expected)
    return {"loss": loss / label_count, "accuracy": correct / label_count}


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the run's settings into the folder; raise OtherRunError if it holds others."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    requested = json.loads(json.dumps(settings))
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_text(json.dumps(requested, indent=2), encoding="utf-8")
        part.replace(path)
        return
    existing = json.loads(path.read_text(encoding="utf-8"))
    different = sorted(
        key for key in requested.keys() | existing.keys() if requested.get(key) != existing.get(key)
    )
    if different:
        raise OtherRunError(
            f"{folder} holds a run with another {', '.join(different)}. Use another --folder, or the settings the run began with."
        )
