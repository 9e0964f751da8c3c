"""Keys and values of prompt prefixes that a model in this process has read, so that the next reply reads only new tokens.

An entry is a sequence of token ids with the state of the model after them. A lookup returns the longest prefix that a prompt
shares with an entry of the same user and journal. A prompt that begins differently shares less and reads the rest again;
nothing else has to be tracked.

What is kept was read without any attached memory and holds no recollections: the system prompt and the history up to the
last message. All entries of a user are dropped as soon as a forgetting of that user is known.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakSet

State = TypeVar("State")

MAX_TOKENS = 16_384
"""Tokens that a model keeps: eight conversations with the default budget for recent turns. A token takes 12 KB with
qwen2.5-coder-0.5b (200 MB in all) and 128 KB with Llama 3.1 8B in bfloat16 (2 GB, an eighth of its weights)."""


@dataclass(frozen=True, slots=True)
class PrefixScope:
    """Whose prompt a model reads, and as of which forgetting.

    Attributes:
        journal: id of the journal.
        user: name of the user.
        forgetting: number of the last forgetting, read before the history.
    """

    journal: str
    user: str
    forgetting: int


PREFIX_SCOPE: ContextVar[PrefixScope | None] = ContextVar("memagent_prefix_scope", default=None)
"""The scope of replies that are generated in this context; None: nothing is kept."""


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(Generic[State]):
    scope: PrefixScope
    ids: tuple[int, ...]
    state: State


class PrefixCache(Generic[State]):
    """The prefixes that one model keeps; the least recently used are dropped first. Any thread may use it.

    Args:
        max_tokens: most tokens of all entries together.
    """

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self._max_tokens = max_tokens
        self._entries: list[_Entry[State]] = []  # least recently used first
        self._forgettings: dict[tuple[str, str], int] = {}  # the last known one, by journal and user
        self._lock = threading.Lock()
        _caches.add(self)

    @property
    def tokens(self) -> int:
        """The number of tokens that are kept."""
        with self._lock:
            return self._count_tokens()

    def lookup(self, scope: PrefixScope, ids: Sequence[int]) -> tuple[int, State | None]:
        """Return how many of the first tokens an entry shares, and the state of that entry; (0, None) if there is none.

        Args:
            scope: whose prompt it is.
            ids: the prompt's tokens.

        Returns:
            The number of shared tokens. The state may cover more tokens than that; it must not be changed.
        """
        with self._lock:
            if not self._follow(scope):
                return 0, None
            shared, best = 0, None
            for entry in self._of(scope):
                length = count_shared(entry.ids, ids)
                if length > shared:
                    shared, best = length, entry
            if best is None:
                return 0, None
            self._entries.remove(best)
            self._entries.append(best)
            return shared, best.state

    def add(self, scope: PrefixScope, ids: Sequence[int], state: State) -> None:
        """Keep a prefix, in place of entries that it continues. Nothing is kept if a later forgetting is known.

        Args:
            scope: whose prompt it is.
            ids: tokens that the model has read.
            state: what the model has computed from exactly these tokens.
        """
        with self._lock:
            if not self._follow(scope) or len(ids) > self._max_tokens:
                return
            for entry in self._of(scope):
                if count_shared(entry.ids, ids) == len(entry.ids):
                    self._entries.remove(entry)
            self._entries.append(_Entry(scope, tuple(ids), state))
            while self._count_tokens() > self._max_tokens:
                del self._entries[0]

    def drop(self, scope: PrefixScope) -> None:
        """Drop what was kept of a user before a forgetting, and keep nothing more of that time.

        Args:
            scope: the user, and the forgetting.
        """
        with self._lock:
            self._follow(scope)

    def _follow(self, scope: PrefixScope) -> bool:
        """Drop a user's entries from before a forgetting; return False if a later forgetting is known."""
        user = scope.journal, scope.user
        if scope.forgetting > self._forgettings.get(user, 0):
            self._forgettings[user] = scope.forgetting
            self._entries = [
                entry for entry in self._entries if (entry.scope.journal, entry.scope.user) != user
            ]
        return scope.forgetting == self._forgettings.get(user, 0)

    def _of(self, scope: PrefixScope) -> list[_Entry[State]]:
        return [entry for entry in self._entries if entry.scope == scope]

    def _count_tokens(self) -> int:
        return sum(len(entry.ids) for entry in self._entries)


_caches: WeakSet[PrefixCache[Any]] = WeakSet()


def drop_prefixes(scope: PrefixScope) -> None:
    """Drop what all models of this process have kept of a user before a forgetting.

    Args:
        scope: the user, and the forgetting.
    """
    for cache in list(_caches):
        cache.drop(scope)


def count_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences share before they differ."""
    length = min(len(first), len(second))
    return next((place for place in range(length) if first[place] != second[place]), length)
