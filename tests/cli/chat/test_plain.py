"""The chat as lines of text, typed into through a pipe."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from memagent.agent.engine.conversation import Conversation
from memagent.agent.memory import Memory
from memagent.agent.models.fakes import ScriptedModel
from memagent.cli.chat.chat import Chat, ChatOptions
from memagent.cli.chat.plain import converse

OpenMemory = Callable[..., Memory]
Type = Callable[[str], None]


@pytest.fixture
def type_(monkeypatch: pytest.MonkeyPatch) -> Type:
    """Returns a function that types a text; then standard input ends."""

    def type_text(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))

    return type_text


def test_a_whole_conversation_is_typed(
    type_: Type, open_memory: OpenMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = open_memory()
    chat = Chat(
        Conversation(memory, ScriptedModel(["Noted.", "Again noted."]), "monday"),
        ChatOptions(user="ana", backend="in_memory"),
    )
    type_("My dog is Biscuit.\n\n/why\nBye\n")
    converse(chat)
    shown = capsys.readouterr().out
    assert "scripted with in_memory memory, session monday" in shown
    assert "Noted." in shown
    assert "Again noted." in shown
    assert "Continue with: memagent chat --session monday" in shown
    assert [turn.text for turn in memory.journal.turns(session="monday")] == [
        "My dog is Biscuit.",
        "Noted.",
        "Bye",
        "Again noted.",
    ]
