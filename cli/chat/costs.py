"""What a memory is, and what it costs to use it: models to fetch, turns to read, time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memagent.backends.errors import CheckpointError, MemagentError
from memagent.cli.rendering.phrases import quantity

if TYPE_CHECKING:
    from pathlib import Path

    from memagent.agent.models.catalogue import CatalogueModel
    from memagent.backends.protocol import MemoryBackend
    from memagent.cli.chat.chat import Chat


@dataclass(frozen=True)
class MemoryDescription:
    """One memory, for a list of them.

    Attributes:
        name: of the backend.
        about: one sentence that says what it is.
        cost: what using it costs; empty: nothing worth saying.
        is_usable: whether its packages are installed.
        needs: as in ``MemoryBackend.needs``.
    """

    name: str
    about: str
    cost: str
    is_usable: bool = True
    needs: frozenset[str] = frozenset()


def describe_memories(chat: Chat | None = None) -> list[MemoryDescription]:
    """Return all installed memories with one sentence each. The first call imports them, which takes seconds.

    Args:
        chat: says what switching to each one would cost; None: the costs are those of a new user.
    """
    from memagent.backends import registry

    return [_describe(name, chat) for name in registry.names()]


def cost_of(backend: str, chat: Chat) -> str:
    """Return what using another memory costs: models to fetch, turns to read, and how long that takes if it is known.

    Args:
        backend: its name, or several joined by ``+``.
        chat: whose journal it would read.

    Raises:
        NotFoundError: there is no such backend.
        MissingExtraError: a package that it needs is not installed.
    """
    from memagent.backends import registry

    sentences = [_reading(choice.name, chat) for choice in registry.choose(backend, {})]
    missing = missing_models(registry.needs(backend), chat.options.model, chat.memory.home.models)
    return " ".join([*sentences, *([f"It first fetches {listing(missing)}."] if missing else [])])


def missing_models(needs: Collection[str], model: str | None, folder: Path) -> list[CatalogueModel]:
    """Return the models of the catalogue that are needed and not here yet.

    Args:
        needs: as in ``MemoryBackend.needs``.
        model: the chat model's name; None: as the settings say.
        folder: where fetched models are kept.
    """
    from memagent.agent.models.catalogue import CATALOGUE
    from memagent.agent.models.embedding import embedder_names
    from memagent.cli.options import chosen_embedder, user_settings

    names: list[str] = []
    if "local_model" in needs:
        names.append(model or user_settings().model)
    if "embedder" in needs:
        names += embedder_names(chosen_embedder())
    return [CATALOGUE[name] for name in names if name in CATALOGUE and not is_here(CATALOGUE[name], folder)]


def is_here(model: CatalogueModel, folder: Path) -> bool:
    """Return whether all files of a model are in the folder of fetched models; their bytes are not checked."""
    return all((model.folder(folder) / file.name).exists() for file in model.files)


def listing(models: Collection[CatalogueModel]) -> str:
    """Return names and sizes of models: ``all-minilm-l6-v2 (91 MB)``."""
    return " and ".join(f"{model.name} ({model.size / 1e6:,.0f} MB)" for model in models)


def _describe(name: str, chat: Chat | None) -> MemoryDescription:
    from memagent.backends import registry

    try:
        backend = registry.get(name)
        cost = cost_of(name, chat) if chat is not None else _lasting_cost(backend)
    except MemagentError as error:
        return MemoryDescription(name, str(error), "", is_usable=False)
    about = next(iter((backend.__doc__ or "").strip().splitlines()), "")
    return MemoryDescription(name, about, cost, needs=backend.needs)


def _lasting_cost(backend: type[MemoryBackend]) -> str:
    """Return how long every turn takes."""
    if backend.seconds_per_turn is not None:
        time = f"About {_duration(backend.seconds_per_turn)} for each turn on two CPU cores."
        return f"{time} {backend.first_use}".strip()
    return "Every turn takes long." if backend.costly else ""


def _reading(name: str, chat: Chat) -> str:
    """Return a sentence that says how many turns a memory has still to read, and how long that takes."""
    from memagent.agent.memory.checkpoint import CheckpointStore
    from memagent.backends import registry

    try:
        checkpoint = CheckpointStore(chat.memory.home.backend_folder(chat.memory.user, name)).read()
    except CheckpointError:
        checkpoint = None
    unread = chat.journal.last()[0] - (checkpoint.position.seq if checkpoint else 0)
    sentence = f"{name} has {quantity(unread, 'turn')} to read"
    backend = registry.get(name)
    if unread and backend.seconds_per_turn is not None:
        time = f"about {_duration(unread * backend.seconds_per_turn)} on two CPU cores."
        return f"{sentence}: {time} {backend.first_use}".strip()
    if unread and backend.costly:
        return f"{sentence}; it learns slowly, and how long it takes was not measured."
    return f"{sentence}."


def _duration(seconds: float) -> str:
    """Return a rough duration: ``40 ms``, ``8 seconds``, ``3 minutes``."""
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 90:
        return quantity(round(seconds), "second")
    return quantity(round(seconds / 60), "minute")
