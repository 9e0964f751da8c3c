"""Full-text search that also finds a turn by the words of the turns it answers."""

from __future__ import annotations

from typing import ClassVar

from memagent.backends.records import Turn
from memagent.backends.shared.chunking import MAX_CHUNK_CHARS, Chunk
from memagent.backends.shared.full_text import FullTextIndex

_CONTEXT_TURNS = 2
_CONTEXT_WEIGHT = 0.5


class ContextIndex(FullTextIndex):
    """Indexes a chunk by its date, speaker and text, and, with half the weight, by the two turns before it.

    "Summer Sounds" says nothing about bands, the question before it does. A turn has a context only if another speaker
    spoke last: a monologue is not found by its own beginning.
    """

    columns: ClassVar[tuple[str, ...]] = ("own", "context")
    weights: ClassVar[tuple[float, ...]] = (1.0, _CONTEXT_WEIGHT)
    own_weights: ClassVar[tuple[float, ...]] = (1.0, 0.0)
    """Without the turns before."""

    def document(self, chunk: Chunk) -> tuple[str, str]:
        """Return the text of both columns: the chunk's own words, and those of the turns it answers."""
        turn = chunk.turn
        date = f"{turn.created_at.day} {turn.created_at:%B %Y}"
        return " ".join(filter(None, (date, turn.speaker, chunk.text))), self._context(turn)

    def _remove(self, seq: int) -> None:
        """Remove a turn, and its words from the context of the turns after it."""
        row = self._database.execute("SELECT session FROM chunks WHERE seq = ?", (seq,)).fetchone()
        super()._remove(seq)
        if row:
            self._index_again(row[0], seq)

    def _index_again(self, session: str, after: int) -> None:
        """Index anew the turns whose context may have held the turn that was at ``after``."""
        later_turns = self._database.execute(
            "SELECT DISTINCT seq FROM chunks WHERE session = ? AND seq > ? ORDER BY seq LIMIT ?",
            (session, after, _CONTEXT_TURNS),
        ).fetchall()
        for (seq,) in later_turns:
            for chunk in self.fetch(self.keys([seq])).values():
                rowid = self._rowid(chunk.key)
                self._database.execute("DELETE FROM documents WHERE rowid = ?", (rowid,))
                self._index(rowid, chunk)

    def _context(self, turn: Turn) -> str:
        """Return the text of the two turns before a turn, if another speaker spoke last."""
        previous = self._database.execute(
            "SELECT text, role, speaker FROM chunks WHERE session = ? AND seq < ? AND part = 0 ORDER BY seq DESC LIMIT ?",
            (turn.session, turn.seq, _CONTEXT_TURNS),
        ).fetchall()
        if not previous or previous[0][1:] == (turn.role, turn.speaker):
            return ""
        return " ".join(text[:MAX_CHUNK_CHARS] for text, _, _ in previous)
