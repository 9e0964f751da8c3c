"""Forgetting a session for good: what is asked before it, what is done, what is reported after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memagent.cli.rendering.output import one_line
from memagent.cli.rendering.phrases import and_replies, quantity

if TYPE_CHECKING:
    from memagent.agent.journal import Journal
    from memagent.agent.memory.forgetting import Forgotten


@dataclass(frozen=True)
class SessionDeletion:
    """What is forgotten with a session. Build it with ``of``.

    Attributes:
        name: of the session.
        seqs: its turns.
        replies: how many replies in other sessions were written with one of them in view.
    """

    name: str
    seqs: tuple[int, ...]
    replies: int

    @classmethod
    def of(cls, journal: Journal, name: str) -> SessionDeletion:
        """Return what would be forgotten; nothing is changed.

        Raises:
            NotFoundError: there is no session of that name.
        """
        journal.session(name)
        seqs = tuple(turn.seq for turn in journal.turns(session=name))
        return cls(name, seqs, len(journal.replies_that_saw(seqs)))

    @property
    def question(self) -> str:
        """What the person is asked before."""
        turns = quantity(len(self.seqs), "turn")
        return f"Forget session {one_line(self.name)!r} with {turns}{and_replies(self.replies)} for good?"

    def apply(
        self, journal: Journal, forget: Callable[[tuple[int, ...]], Forgotten]
    ) -> tuple[str, Forgotten]:
        """Forget the turns, then the session's name.

        Args:
            journal: of the user.
            forget: forgets turns in the journal and in every memory.

        Returns:
            A sentence for the person, and what was forgotten.
        """
        forgotten = forget(self.seqs)
        journal.delete_session(self.name)
        turns, replies = quantity(len(self.seqs), "turn"), and_replies(len(forgotten.replies))
        return f"Deleted session {one_line(self.name)!r}: {turns}{replies} forgotten.", forgotten
