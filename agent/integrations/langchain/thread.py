"""The messages of a thread and the turns of the journal: which is which, what a model has in view, what is stored.

A turn's id derives from the session and the id of its message. So a thread that is resumed or replayed, in any process,
finds its turns again: none is stored twice, and none that was forgotten comes back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from memagent.agent.engine.conversation import storable_reply
from memagent.agent.journal import Journal, NewTurn
from memagent.agent.memory import Memory
from memagent.backends.errors import StorageError

SEQS = "memagent_seqs"
"""Key of the seqs that a tool message (in its artifact) or a reply (in its response metadata) was written with."""

_NAMESPACE = UUID("6d656d61-6765-6e74-8000-6c616e67636e")
_RECENT_TURNS = 64
# Marks a message of LangChain's SummarizationMiddleware, which stands for messages that it removed.
_SOURCE, _SUMMARY = "lc_source", "summarization"


def turn_id(session: str, message: BaseMessage) -> str | None:
    """Return the id that a message's turn has in the journal; None if the message has no id.

    Args:
        session: name of the session.
        message: a message of the thread.
    """
    return uuid5(_NAMESPACE, f"{session}\0{message.id}").hex if message.id else None


def last_human(messages: Sequence[BaseMessage]) -> int:
    """Return the index of the last message by the user; -1 if there is none."""
    return next((index for index in reversed(range(len(messages))) if _by_user(messages[index])), -1)


def new_humans(messages: Sequence[BaseMessage]) -> list[HumanMessage]:
    """Return the last message by the user, after those that stand right before it, as far as they have text."""
    end = last_human(messages) + 1
    start = end
    while start and _by_user(messages[start - 1]):
        start -= 1
    return [
        message
        for message in messages[start:end]
        if isinstance(message, HumanMessage) and message.text.strip()
    ]


def outdated_ids(
    journal: Journal, session: str, messages: Sequence[BaseMessage], recalled: Collection[int]
) -> list[str]:
    """Return the ids of messages that may repeat what was forgotten: forgotten ones, and what was written with them in view.

    The last message by the user, and what follows it, is not among them. Of an earlier message by the user, all replies are,
    with their tool calls, if one is.

    Args:
        journal: the user's journal.
        session: name of the session.
        messages: messages of the thread.
        recalled: seqs of the turns that were recalled since the last stored reply.
    """
    earlier = messages[: max(last_human(messages), 0)]
    ids = _message_ids(session, earlier)
    seen = journal.seen_ids(ids)
    seqs = {seq for message in earlier for seq in _seqs_of(message)}.union(recalled)
    missing = seqs.difference(turn.seq for turn in journal.get(seqs))
    forgotten = {ids[turn] for turn, seq in seen.items() if not seq}
    forgotten |= {
        message.id for message in earlier if message.id and not missing.isdisjoint(_seqs_of(message))
    }
    stored = {ids[turn] for turn in seen}
    outdated: list[str] = []
    for humans, replies in _exchanges(earlier):
        reply_ids = [message.id for message in replies if message.id]
        # No reply was stored, so it is only known that the turns recalled since may be in it.
        unknown = not missing.isdisjoint(recalled) and stored.isdisjoint(reply_ids)
        outdated += [message.id for message in humans if message.id in forgotten]
        if unknown or not forgotten.isdisjoint(reply_ids) or any(human.id in forgotten for human in humans):
            outdated += reply_ids
    return outdated


def store_humans(journal: Journal, session: str, messages: Sequence[BaseMessage]) -> None:
    """Store the new messages by the user, unless they were stored before.

    Args:
        journal: the user's journal.
        session: name of the session.
        messages: messages of the thread.

    Raises:
        InputError: a text cannot be stored; nothing was stored.
        StorageError: the journal cannot be written; nothing was stored.
    """
    humans = new_humans(messages)
    seen = journal.seen_ids(_message_ids(session, humans))
    new = [
        NewTurn(session, "user", message.text, id=turn_id(session, message))
        for message in humans
        if turn_id(session, message) not in seen
    ]
    try:
        journal.extend(new)
    except StorageError:
        ids = [turn.id for turn in new if turn.id]
        if len(ids) < len(new) or len(journal.seen_ids(ids)) < len(ids):
            raise  # else another run of this thread has stored them meanwhile


def store_reply(
    memory: Memory, session: str, messages: Sequence[BaseMessage], recalled: frozenset[int]
) -> bool:
    """Store what the model replied to the last message by the user, unless it was stored before, and let memory read it.

    A reply that had a forgotten turn in view is not stored, because it may repeat it.

    Args:
        memory: the user's memory.
        session: name of the session.
        messages: messages of the thread.
        recalled: seqs of the turns that were recalled since the last reply.

    Returns:
        True if the journal has the reply now.

    Raises:
        StorageError: the journal cannot be written; the reply was not stored.
    """
    replies = [message for message in messages[last_human(messages) + 1 :] if isinstance(message, AIMessage)]
    seen = _seen_replies(memory.journal, session, messages, replies)
    last_stored = max((place for place, message in enumerate(replies) if message.id in seen), default=-1)
    new = replies[last_stored + 1 :]
    text = storable_reply("\n\n".join(message.text.strip() for message in new if message.text.strip()))
    stored = bool(replies) and not new
    if text:
        view, reply_id = view_of(memory.journal, session, messages, recalled), turn_id(session, new[-1])
        if reply_id and memory.journal.seen_ids([reply_id]):
            reply_id = None  # of a reply to an earlier message; a cache of replies gives ids again
        if not view.forgotten:
            turn = memory.journal.append_reply(
                session, text, view.seqs, derived=view.derived, recalled=view.recalled, turn_id=reply_id
            )
            stored = turn is not None
    memory.catch_up()
    return stored


def _seen_replies(
    journal: Journal, session: str, messages: Sequence[BaseMessage], replies: Sequence[BaseMessage]
) -> set[str]:
    """Return the ids of replies to the last message by the user that were stored before, or have been forgotten."""
    humans = journal.seen_ids(_message_ids(session, new_humans(messages)))
    answered = max(filter(None, humans.values()), default=0)
    ids = _message_ids(session, replies)
    return {ids[turn] for turn, seq in journal.seen_ids(ids).items() if not seq or seq > answered}


@dataclass(frozen=True, slots=True)
class View:
    """The turns that a model had in view.

    Attributes:
        seqs: all of them, ascending.
        recalled: those that were recalled.
        derived: True if recollections were in view, here or when an earlier reply was written.
        forgotten: True if one of the messages has been forgotten.
    """

    seqs: tuple[int, ...]
    recalled: tuple[int, ...]
    derived: bool
    forgotten: bool


def view_of(
    journal: Journal, session: str, messages: Sequence[BaseMessage], recalled: frozenset[int] = frozenset()
) -> View:
    """Return the turns that are in view where the messages are in a prompt.

    Turns are found by the messages' ids and, for a caller who passes a history without them, by their texts among the
    session's recent turns. Where messages were summarised, all recent turns count as in view.

    Args:
        journal: the user's journal.
        session: name of the session.
        messages: messages of the prompt.
        recalled: seqs of the turns that were recalled for it; those of tools and of earlier replies are added.
    """
    recalled = recalled.union(*map(_seqs_of, messages))
    ids = _message_ids(session, messages)
    seen = journal.seen_ids(ids)
    seqs = {seq for seq in seen.values() if seq}
    # A reply that had a derived one in view is derived too, so that the last ones tell of all.
    turns = journal.get(sorted(seqs)[-_RECENT_TURNS:])
    known = {ids[turn] for turn in seen}
    earlier = messages[: max(last_human(messages), 0)]
    texts = {message.text.strip() for message in earlier if message.id not in known}
    summarised = any(_is_summary(message) for message in messages)
    if summarised or texts - {""}:
        recent = journal.recent(max(_RECENT_TURNS, len(messages)), session)
        turns += [turn for turn in recent if summarised or turn.text.strip() in texts]
    return View(
        seqs=tuple(sorted(seqs.union((turn.seq for turn in turns), recalled))),
        recalled=tuple(sorted(recalled)),
        derived=bool(recalled) or any(turn.derived for turn in turns) or any(map(_with_memory, messages)),
        forgotten=not all(seen.values()),
    )


def _message_ids(session: str, messages: Sequence[BaseMessage]) -> dict[str, str]:
    """Return the messages' ids by the ids of their turns."""
    return {turn: message.id for message in messages if (turn := turn_id(session, message)) and message.id}


def _seqs_of(message: BaseMessage) -> list[int]:
    """Return the turns that were recalled by a tool, or inside the model that wrote a reply."""
    if isinstance(message, ToolMessage):
        source = message.artifact
    else:
        source = message.response_metadata if isinstance(message, AIMessage) else None
    return list(source.get(SEQS, ())) if isinstance(source, dict) else []


def _with_memory(message: BaseMessage) -> bool:
    """Say whether memory acted inside the model that wrote a reply. It need not say what it recalled."""
    return isinstance(message, AIMessage) and SEQS in message.response_metadata


def _by_user(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage) and not _is_summary(message)


def _is_summary(message: BaseMessage) -> bool:
    return message.additional_kwargs.get(_SOURCE) == _SUMMARY


def _exchanges(messages: Sequence[BaseMessage]) -> Iterator[tuple[list[BaseMessage], list[BaseMessage]]]:
    """Split messages into exchanges: messages by the user, and what follows them up to the next."""
    humans: list[BaseMessage] = []
    replies: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, HumanMessage):
            if replies:
                yield humans, replies
                humans, replies = [], []
            humans.append(message)
        else:
            replies.append(message)
    yield humans, replies
