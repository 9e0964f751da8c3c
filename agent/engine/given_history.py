"""A conversation whose history the caller gives with each message: clients resend it, and may have edited it.

The prompt holds the messages that the caller gives, never those of the journal. A turn's id is a keyed digest of the session
and of the user's messages up to it. So a message that is sent again is not stored twice, replies of the journal are recognised, and
what was forgotten does not come back.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC

from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.engine.events import Event
from memagent.agent.engine.history import History
from memagent.agent.journal import NewTurn
from memagent.agent.journal.records import check_text
from memagent.agent.memory import Memory
from memagent.agent.models.chat import ChatModel, Message
from memagent.backends.records import Turn

_ID_DIGITS = 32


def keyed_digest(secret: bytes, *parts: str) -> str:
    """Return a digest of texts, as 64 hexadecimal digits, that nobody can compute without a secret.

    Args:
        secret: of whoever sends the texts.
        parts: the texts; where one ends and the next begins matters.
    """
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def turn_ids(session: str, messages: Sequence[Message], secret: bytes) -> list[str]:
    """Return the ids that the messages of a conversation have as turns of the journal.

    An id depends on the session, on the user's messages before it, and on role and text. So replies that were edited or
    generated again leave the ids of the user's messages as they are.

    Args:
        session: name of the session.
        messages: of the user and the assistant, from the first one on.
        secret: of whoever sends the messages; the journal keeps ids of forgotten turns, and nobody should guess texts by them.
    """
    ids = []
    before = keyed_digest(secret, session)
    for message in messages:
        digest = keyed_digest(secret, before, message.role, message.content.strip())
        if message.role == "user":
            before = digest
        ids.append(digest[:_ID_DIGITS])
    return ids


@dataclass(frozen=True, slots=True)
class _Known:
    """What the journal knows of the given messages.

    Attributes:
        turns: one for each message; of one that it lacks, with the seq 0.
        has_forgotten: one of the messages has been forgotten.
        has_unknown_reply: it lacks one of the replies, so that this may repeat what was recalled.
    """

    turns: tuple[Turn, ...]
    has_forgotten: bool
    has_unknown_reply: bool


class GivenConversation(Conversation):
    """A conversation in one session, with a history that the caller gives.

    ``send`` stores the last message and the reply only. A message that the journal has already is not stored again. One that
    has been forgotten is answered without a trace. A reply is not stored if one of the given messages has been forgotten,
    because it may repeat that; memory does not read it if the journal lacks one of the given replies.

    Args:
        memory: the user's memory; the conversation does not close it.
        model: any chat model.
        session: name of the session; it begins or continues.
        settings: by default, ``Settings()``.
        history: what was said before, by the user and the assistant, oldest first.
        secret: as for ``turn_ids``.

    Raises:
        InputError: the session's name cannot be stored.
        SettingError: backend or model cannot use the channel of the settings.
    """

    def __init__(
        self,
        memory: Memory,
        model: ChatModel,
        session: str,
        settings: Settings | None = None,
        *,
        history: Sequence[Message] = (),
        secret: bytes,
    ) -> None:
        super().__init__(memory, model, session, settings)
        self._messages = tuple(history)
        self._secret = secret
        self._text = ""
        self._known: _Known | None = None

    def send(self, text: str) -> Iterator[Event]:
        """Send a message and yield the events until the reply has ended; see ``Conversation.send``.

        Args:
            text: the message.

        Raises:
            MemagentError: as ``Conversation.send``.
        """
        check_text(text)
        id_ = self._message_id(text)
        is_forgotten = self.memory.journal.seen_ids([id_]).get(id_) == 0
        return self.probe(text) if is_forgotten else super().send(text)

    def _message_id(self, text: str) -> str:
        return turn_ids(self.session, [*self._messages, Message("user", text)], self._secret)[-1]

    def _history(self, text: str) -> History:
        journal = self.memory.journal
        self._text = text
        self._known = known = self._look_up()
        id_ = self._message_id(text)
        seq = journal.seen_ids([id_]).get(id_, 0)
        # The message itself, and earlier replies to it, are no memories of it when it is sent again.
        retried = frozenset([seq, *journal.replies_that_saw([seq])]) if seq else frozenset()
        texts = frozenset(message.content.strip() for message in self._messages)
        return History(known.turns, retried, texts)

    def _look_up(self) -> _Known:
        """Find the given messages in the journal."""
        journal = self.memory.journal
        ids = turn_ids(self.session, self._messages, self._secret)
        seqs_by_id = journal.seen_ids(ids)
        turns_by_id = {turn.id: turn for turn in journal.get(sorted(filter(None, seqs_by_id.values())))}
        now = self.settings.clock().astimezone(UTC)
        turns = tuple(
            turns_by_id.get(id_) or Turn(0, id_, self.session, message.role, message.content, now)
            for id_, message in zip(ids, self._messages, strict=True)
        )
        return _Known(
            turns,
            has_forgotten=not all(seqs_by_id.values()),
            has_unknown_reply=any(turn.role == "assistant" and not turn.seq for turn in turns),
        )

    def _store_message(self, text: str) -> Turn:
        journal = self.memory.journal
        id_ = self._message_id(text)
        seq = journal.seen_ids([id_]).get(id_, 0)
        if seq and (stored := journal.get([seq])):
            return stored[0]
        return journal.extend([NewTurn(self.session, "user", text, id=id_)])[0]

    def _store_reply(
        self, text: str, in_view: Sequence[int], recalled: Sequence[int], *, derived: bool
    ) -> Turn | None:
        journal = self.memory.journal
        known = self._known or self._look_up()
        messages = [*self._messages, Message("user", self._text), Message("assistant", text)]
        id_ = turn_ids(self.session, messages, self._secret)[-1]
        seen = journal.seen_ids([id_])
        if known.has_forgotten or seen.get(id_) == 0:
            return None
        if id_ in seen:
            return next(iter(journal.get([seen[id_]])), None)
        return journal.append_reply(
            self.session,
            text,
            in_view,
            derived=derived or known.has_unknown_reply,
            recalled=recalled,
            turn_id=id_,
        )
