"""What programs do with one memory, over one user's memory or journal. They raise MemagentError."""

from __future__ import annotations

from collections.abc import Sequence

from memagent.agent.integrations.access.records import (
    AddResult,
    DeleteResult,
    ListResult,
    MemoryRecord,
    RecalledMemory,
    SearchResult,
    UpdateResult,
)
from memagent.agent.journal import JournalReader
from memagent.agent.journal.item_index import outdated_seqs
from memagent.agent.memory import Forgotten, Memory
from memagent.agent.memory.forgetting import Remaining
from memagent.backends.errors import InputError, MemagentError, NotFoundError
from memagent.backends.records import Turn

MAX_CHARACTERS = 32_768
"""Most characters of a text or a query: four pages. What is longer is recalled as a whole or not at all."""


def check_length(what: str, text: str) -> None:
    """Refuse a text that is too long for one memory.

    Args:
        what: names the text in the message: "The text".
        text: the text.

    Raises:
        InputError: it has more than ``MAX_CHARACTERS``.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{what} has {len(text):,} characters; {MAX_CHARACTERS:,} at most. "
            "Nothing was done: use several shorter ones, one fact each."
        )


def add(memory: Memory, text: str, session: str) -> AddResult:
    """Store a text. Once the journal has it, this does not fail: what the memory could not do yet is a note.

    Args:
        memory: of the user.
        text: what is remembered.
        session: name of the session.

    Raises:
        InputError, StorageError: it cannot be stored.
    """
    turn = memory.journal.append(session, "user", text)
    note = ""
    try:
        memory.catch_up()
    except MemagentError as error:
        note = f"It is stored. It can be searched once this is solved: {error}"
    return AddResult(id=turn.seq, session=turn.session, note=note)


def search(memory: Memory, query: str, limit: int) -> SearchResult:
    """Return what is relevant to a query, best first.

    Args:
        memory: of the user.
        query: a question or a text; not blank.
        limit: most results.

    Raises:
        InputError: the query is blank.
        MemagentError: see ``Memory.recall``.
    """
    if not query.strip():
        raise InputError(
            "The query is empty. Ask in a full sentence, or call list_memories to see what there is."
        )
    recollections = memory.recall(query, limit=limit)
    return SearchResult(memories=[RecalledMemory.of_recollection(item) for item in recollections])


def require(journal: JournalReader, seq: int) -> Turn:
    """Return a turn that is there.

    Args:
        journal: of the user.
        seq: of the turn.

    Raises:
        InputError: there is none, or it is an outdated item.
    """
    turns = [] if outdated_seqs(journal, [seq]) else journal.get([seq])
    if not turns:
        raise InputError(
            f"There is no memory {seq}: it was never stored, or it has been deleted. "
            "search_memories and list_memories return the ids of those that there are."
        )
    return turns[0]


def update_result(old: int, new: Turn, forgotten: Forgotten) -> UpdateResult:
    """Return the result of a correction."""
    return UpdateResult(
        id=new.seq,
        replaced=old,
        deleted_replies=list(forgotten.replies),
        note=_note(forgotten.remaining),
    )


def delete_result(seq: int, forgotten: Forgotten) -> DeleteResult:
    """Return the result of a deletion."""
    return DeleteResult(id=seq, deleted_replies=list(forgotten.replies), note=_note(forgotten.remaining))


def list_page(journal: JournalReader, session: str | None, limit: int, cursor: str | None) -> ListResult:
    """Return a page of the memories, newest first.

    Args:
        journal: of the user.
        session: name of a session; None: all.
        limit: most memories of the page.
        cursor: ``next_cursor`` of the page before; None: the first page.

    Raises:
        InputError: the cursor is not one of ours.
        NotFoundError: there is no such session.
    """
    if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= 16):
        raise InputError(
            f"The cursor {cursor[:40]!r} is not one that list_memories returned. Leave it out to begin with the newest."
        )
    if session is not None and session not in (names := journal.session_names()):
        raise NotFoundError("session", session, names)
    before = int(cursor) if cursor is not None else None
    turns: list[Turn] = []
    while len(turns) <= limit and (page := journal.recent(limit + 1, session, before=before)):
        before = page[0].seq
        outdated = outdated_seqs(journal, [turn.seq for turn in page])
        turns += [turn for turn in reversed(page) if turn.seq not in outdated]
    shown = turns[:limit]
    return ListResult(
        memories=[MemoryRecord.of(turn) for turn in shown],
        next_cursor=str(shown[-1].seq) if len(turns) > limit else None,
    )


def _note(remaining: Sequence[Remaining]) -> str:
    """Return in one text what a forgetting could not do yet; empty: it did everything."""
    return " ".join(
        f"{step.reason} {f'Finish with: {step.command}' if step.command else ''}".strip()
        for step in remaining
    )
