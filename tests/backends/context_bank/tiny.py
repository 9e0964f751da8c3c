"""An autoencoder for a tiny random model, trained for a moment."""

from __future__ import annotations

from pathlib import Path

from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends.context_bank import ContextBankConfig, training
from memagent.backends.neural.context_bank.training import TrainingSettings
from memagent.backends.protocol import LocalModel, Resources

_SUBJECTS = ("My sister", "The neighbour", "Our old teacher", "The baker", "A friend of mine")
_VERBS = ("keeps", "paints", "sells", "repairs", "collects", "photographs")
_OBJECTS = (
    "wooden boats",
    "blue bicycles",
    "rare stamps",
    "small clocks",
    "tall lamps",
    "green kettles",
    "old maps",
)


def lines() -> list[str]:
    """Return 210 sentences of the same form."""
    return [f"{who} {does} {what}." for who in _SUBJECTS for does in _VERBS for what in _OBJECTS]


def train_tiny_autoencoder(folder: Path, local: LocalModel, ratio: int = 16) -> Path:
    """Train an autoencoder of a model on ``lines``, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "lines.txt"
    text.write_text("\n".join(lines()) + "\n", encoding="utf-8")
    resources = Resources(folder, make_embedder=HashingEmbedder, make_model=lambda: local, cache=folder)
    config = ContextBankConfig(ratio=ratio, text=str(text))
    return training.train(config, resources, settings=TrainingSettings(steps=5))
