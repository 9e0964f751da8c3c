"""Training a backend's weights apart from any journal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memagent.agent.home import Home
from memagent.agent.models.models import Models
from memagent.backends import registry
from memagent.backends.protocol import MemoryBackend, Progress, Resources, silent
from memagent.backends.records import TrainingPlan


@dataclass(frozen=True)
class Training:
    """A training that can be started.

    Attributes:
        plan: what it takes.
    """

    plan: TrainingPlan
    _backend: type[MemoryBackend]
    _config: Any
    _resources: Resources

    def run(self) -> None:
        """Train the weights and keep them in the models' folder.

        Raises:
            MemagentError: a model cannot be loaded or trained.
        """
        self._backend.train(self._config, self._resources)


@contextmanager
def open_training(
    home: Home,
    models: Models,
    backend: str,
    settings: Mapping[str, str] | None = None,
    *,
    model: str,
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[Training]:
    """Prepare the training of a backend's weights; nothing is trained before ``Training.run``.

    Args:
        home: the folders of the installation.
        models: the models that the backend needs; missing files are fetched.
        backend: its name.
        settings: its hyper-parameters as text, by field name.
        model: the language model that the weights are trained for.
        seed: for everything random.
        progress: wraps the long loops.

    Raises:
        SettingError: the backend has no weights to train.
        MemagentError: a model or a setting does not exist or does not fit.
    """
    (choice,) = registry.choose(backend, settings or {})
    kind, config = choice.backend, choice.config
    if kind.trainable:
        models.fetch(kind.needs, model)
    with tempfile.TemporaryDirectory(prefix="memagent-") as workspace:
        resources = Resources(
            workspace=Path(workspace),
            make_embedder=models.embedder,
            make_model=lambda: models.local(model),
            seed=seed,
            progress=progress,
            cache=home.models / "derived",
        )
        yield Training(kind.training_plan(config, resources), kind, config, resources)
