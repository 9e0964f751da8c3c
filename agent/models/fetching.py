"""Fetching the files of models before a lock is taken: a download may take minutes, and others wait for the lock."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from memagent.agent.models.embedding import fetch_embedder
from memagent.agent.models.hub import Notify, Report, quiet
from memagent.agent.models.loader import fetch_chat_model


def fetch_models(
    needs: Collection[str],
    models: Path,
    *,
    embedder: str | None = None,
    chat_model: str | None = None,
    notify: Notify,
    report: Report = quiet,
) -> None:
    """Fetch and verify the files of the models that are needed; no model is loaded.

    Args:
        needs: of ``MemoryBackend.needs``: ``embedder``, ``local_model``.
        models: the folder where fetched models are kept.
        embedder: the embedder's name; None: as the environment says.
        chat_model: the name of the chat model; None: it is in memory already.
        notify: called with a sentence when something is fetched.
        report: called with the bytes that have come.

    Raises:
        NotFoundError: no model has that name.
        ModelError: a file is damaged, or cannot be fetched.
    """
    if "embedder" in needs:
        fetch_embedder(models, embedder, notify=notify, report=report)
    if "local_model" in needs and chat_model is not None:
        fetch_chat_model(chat_model, models, notify=notify, report=report)
