"""The names of imported sessions: unique titles, and the same ones when a file is imported again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from memagent.agent.journal.reading import JournalReader

_MAX_CHARACTERS = 80


class SessionNames:
    """Gives names to conversations.

    Args:
        journal: that they will be added to.
    """

    def __init__(self, journal: JournalReader) -> None:
        self._journal = journal
        self._taken = set(journal.session_names())
        self._by_key: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def name(self, title: str, session_key: str, ids: Sequence[str]) -> str:
        """Return the name of a conversation's session.

        Args:
            title: what it should be called.
            session_key: conversations with the same one share a session; empty: it has one of its own.
            ids: of its first turns: if the journal has one of them, the session is that turn's.
        """
        if session_key in self._by_key:
            return self._by_key[session_key]
        name = self._present(ids) or self._unique(title)
        self._taken.add(name)
        if session_key:
            self._by_key[session_key] = name
        return name

    def _present(self, ids: Sequence[str]) -> str | None:
        """Return the session of the first of these turns that the journal has; None: it has none."""
        seqs = [seq for seq in self._journal.seen_ids(ids).values() if seq]
        turns = self._journal.get([min(seqs)]) if seqs else []
        return turns[0].session if turns else None

    def _unique(self, title: str) -> str:
        """Return a title that no session has: printable, on one line, with a number if it is taken."""
        words = "".join(character if character.isprintable() else " " for character in title).split()
        base = " ".join(words)[:_MAX_CHARACTERS].rstrip() or "imported"
        name = base
        while name in self._taken:
            self._counts[base] = max(self._counts[base], 1) + 1
            name = f"{base} ({self._counts[base]})"
        return name
