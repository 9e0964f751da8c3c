"""The reply of a turn while the model generates it, and the model channel that is open for it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack
from contextvars import copy_context

from memagent.agent.engine.events import Recalled
from memagent.agent.memory import AttachedMemory


class PendingReply:
    """The reply while it is generated, and the model channel that is open for it.

    The channel is open in a context of its own: other replies of the same model do not use it.

    Attributes:
        began: when the turn began, by ``time.monotonic``.
        recalled: what memory has recalled so far.
        first_token_at: when the first token came; None: not yet.
        attached_seqs: seqs of the turns that act inside the model.
        text: the reply so far.
        complete: True if it was not stopped.
        context: the context in which the model generates.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.recalled = Recalled((), (), 0.0)
        self.first_token_at: float | None = None
        self.attached_seqs: frozenset[int] = frozenset()
        self.text = ""
        self.complete = False
        self.context = copy_context()
        self._channel = ExitStack()

    def attach(self, memory: AbstractContextManager[AttachedMemory]) -> None:
        """Open the model channel, and add what it recalls to what is in the prompt.

        Args:
            memory: what opens the channel.
        """
        began = time.monotonic()
        attached = self.context.run(self._channel.enter_context, memory)
        self.attached_seqs = attached.seqs
        self.recalled = Recalled(
            self.recalled.recollections + attached.recollections,
            self.recalled.in_view + attached.recollections,
            self.recalled.seconds + time.monotonic() - began,
        )

    def close(self) -> None:
        """Close the model channel."""
        self.context.run(self._channel.close)

    def add(self, token: str) -> None:
        """Add the next part of the reply.

        Args:
            token: as the model streams it.
        """
        self.first_token_at = self.first_token_at or time.monotonic()
        self.text += token
