"""Correcting a turn: another takes its place, and the wrong text is gone everywhere."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memagent.agent.engine.conversation import Conversation
from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewAttachment
from memagent.agent.journal.writing import Transaction
from memagent.agent.models.fakes import EchoModel
from memagent.backends.errors import InputError
from memagent.backends.records import Turn
from tests.conftest import OpenMemory

WHEN = datetime(2026, 3, 14, tzinfo=UTC)
WRONG, RIGHT = "My dog is called Basket.", "My dog is called Biscuit."


@pytest.mark.parametrize("backend", ["in_memory", "bm25", "rag"])
def test_the_right_text_takes_over_all_but_the_text(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    photo = NewAttachment("image/png", b"a photo")
    wrong = memory.remember("monday", "user", WRONG, speaker="Ana", created_at=WHEN, attachments=(photo,))
    right, forgotten = memory.correct(wrong.seq, RIGHT)
    assert forgotten.turns == (wrong.seq,)
    assert (right.session, right.role, right.speaker, right.created_at) == ("monday", "user", "Ana", WHEN)
    assert (right.text, right.attachments) == (RIGHT, wrong.attachments)
    assert memory.journal.attachment(right.seq, 0) == photo.content
    assert [item.text for item in memory.recall("What is my dog called?")] == [RIGHT]
    assert memory.journal.audit() == []


def test_the_wrong_text_is_in_no_file_and_replies_that_saw_it_are_gone(
    home: Home, open_memory: OpenMemory
) -> None:
    memory = open_memory()
    wrong = memory.remember("monday", "user", WRONG)
    list(Conversation(memory, EchoModel(), "monday").send("What is my dog called?"))
    memory.checkpoint()
    _, forgotten = memory.correct(wrong.seq, RIGHT)
    assert len(forgotten.replies) == 1
    memory.close()
    holders = [path for path in home.root.rglob("*") if path.is_file() and b"Basket" in path.read_bytes()]
    assert holders == []


def test_a_pinned_turn_stays_pinned(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.journal.pin([memory.remember("monday", "user", WRONG).seq])
    right, _ = memory.correct(1, RIGHT)
    assert [item.seqs for item in memory.pinned()] == [(right.seq,)]


@pytest.mark.parametrize(("seq", "text"), [(7, RIGHT), (1, " "), (1, "a\0b")])
def test_what_cannot_be_corrected_changes_nothing(seq: int, text: str, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", WRONG)
    with pytest.raises(InputError):
        memory.correct(seq, text)
    assert [turn.text for turn in memory.journal.turns()] == [WRONG]


def test_a_turn_that_another_process_forgets_meanwhile_does_not_come_back(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    memory.remember("monday", "user", WRONG, attachments=(NewAttachment("text/plain", b"a secret"),))
    monkeypatch.setattr(type(memory.journal), "get", lambda journal, seqs: forget_first(journal, monkeypatch))
    with pytest.raises(InputError, match="There is no turn 1"):
        memory.correct(1, RIGHT)
    assert list(memory.journal.turns()) == []


def forget_first(journal: Journal, patched: pytest.MonkeyPatch) -> list[Turn]:
    """Stand in for ``Journal.get``: another process forgets turn 1 right after it."""
    patched.undo()
    turns = journal.get([1])
    journal.forget([1])
    return turns


def test_a_kill_leaves_the_old_turn_or_the_new_one(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    memory.remember("monday", "user", WRONG)

    def fail(self: Transaction, states: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "note_unfinished", fail)
        with pytest.raises(KeyboardInterrupt):
            memory.correct(1, RIGHT)
    assert [turn.text for turn in memory.journal.turns()] == [WRONG]
    memory.correct(1, RIGHT)
    assert [turn.text for turn in memory.journal.turns()] == [RIGHT]
