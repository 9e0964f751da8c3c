"""Opening a memory with the models it needs: the one place where journal, backends and models come together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memagent.agent.home import Home
from memagent.agent.memory.memory import Memory
from memagent.agent.models.models import Models
from memagent.backends import registry


def open_memory(
    home: Home,
    models: Models,
    user: str,
    backend: str,
    settings: Mapping[str, str] | None = None,
    *,
    model: str,
    **options: Any,
) -> Memory:
    """Open a user's memory with the embedder and the language model that its backends need.

    The models' files are fetched and verified first, unless nothing is locked here (``read_only``) or the lock is held
    already (``lock``).

    Args:
        home: the folders of the installation.
        models: the models to open it with.
        user: whose memory it is.
        backend: one name, or several joined by ``+``.
        settings: hyper-parameters as text, by field name.
        model: the language model of backends that work inside one.
        options: further arguments of ``Memory.open``.

    Raises:
        MemagentError: see ``Memory.open`` and ``load_chat_model``.
    """
    if not options.get("read_only") and options.get("lock") is None:
        models.fetch(registry.needs(backend), model)
    return Memory.open(
        home,
        user,
        backend,
        settings,
        make_embedder=models.embedder,
        make_model=lambda: models.local(model),
        **options,
    )
