"""The models of one installation, each loaded once and on first use: what every agent, command and test opens memories with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Self

from memagent.agent.models.chat import ChatModel
from memagent.agent.models.embedding import load_embedder
from memagent.agent.models.fetching import fetch_models
from memagent.agent.models.hub import Notify, Report, quiet
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.protocol import Embedder, LocalModel

_LOG = logging.getLogger("memagent")

Fetch = Callable[[frozenset[str], str | None], None]


def _fetch_nothing(needs: frozenset[str], chat_model: str | None) -> None:
    """Models that are given as objects need no files."""


@dataclass(frozen=True)
class Models:
    """An embedder and chat models by name. Build it with ``shared``, or of your own models.

    Attributes:
        folder: where fetched models are kept.
        embedder: returns the embedder; one made by ``shared`` fetches and loads its weights with the first text.
        chat: returns the chat model of a name; one made by ``shared`` is fetched, converted and loaded on first use.
        fetch: fetches and verifies the files of what backends need (``MemoryBackend.needs``) and of a chat model,
            so that no download happens while a lock is held.
    """

    folder: Path
    embedder: Callable[[], Embedder]
    chat: Callable[[str], ChatModel]
    fetch: Fetch = _fetch_nothing

    @classmethod
    def shared(
        cls, folder: Path, embedder: str | None = None, *, notify: Notify = _LOG.info, report: Report = quiet
    ) -> Self:
        """Return models that are loaded from a folder, and fetched into it.

        Args:
            folder: where fetched models are kept.
            embedder: the embedder's name; None: as the environment says.
            notify: called with a sentence when something is fetched or converted.
            report: called with the bytes that have come.
        """

        def fetch(needs: frozenset[str], chat_model: str | None) -> None:
            fetch_models(
                needs, folder, embedder=embedder, chat_model=chat_model, notify=notify, report=report
            )

        return cls(
            folder,
            cache(lambda: load_embedder(folder, embedder, notify=notify, report=report)),
            cache(lambda name: load_chat_model(name, folder, notify=notify, report=report)),
            fetch,
        )

    def with_chat(self, model: ChatModel) -> Self:
        """Return the same models, with one chat model, which needs no files, in place of those by name."""
        return replace(
            self,
            chat=lambda name: model,
            fetch=lambda needs, chat_model: self.fetch(needs - {"local_model"}, None),
        )

    def local(self, name: str) -> LocalModel:
        """Return a chat model that backends may work inside.

        Raises:
            SettingError: it does not run in this process.
            MemagentError: it cannot be loaded.
        """
        return as_local(self.chat(name))
