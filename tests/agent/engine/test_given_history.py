"""Conversations whose history the caller gives: what the prompt holds, what is stored, what stays forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from memagent.agent.engine.agent import collect
from memagent.agent.engine.conversation import Settings
from memagent.agent.engine.events import Token
from memagent.agent.engine.given_history import GivenConversation, keyed_digest, turn_ids
from memagent.agent.memory import Memory
from memagent.agent.models.chat import Message
from memagent.agent.models.fakes import ScriptedModel
from tests.conftest import OpenMemory

SECRET = b"key"


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    return open_memory(backend="bm25", settings={"abstain": "false"})


def converse(
    memory: Memory, reply: str, *texts: str, session: str = "chat", settings: Settings | None = None
) -> ScriptedModel:
    """Send the last of some texts, which the user and the assistant say in turn; return the model with its prompt."""
    model = ScriptedModel([reply])
    *history, last = texts
    roles = ("user", "assistant")
    messages = [Message(roles[index % 2], text) for index, text in enumerate(history)]
    conversation = GivenConversation(memory, model, session, settings, history=messages, secret=SECRET)
    assert collect(list(conversation.send(last))).text == reply
    return model


def stored(memory: Memory) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in memory.journal.turns()]


def prompt(model: ScriptedModel) -> Sequence[Message]:
    return model.prompts[0][1:]


def test_only_the_new_message_and_the_reply_are_stored(memory: Memory) -> None:
    converse(memory, "Fine.", "My dog is called Biscuit.")
    model = converse(memory, "Biscuit.", "My dog is called Biscuit.", "Fine.", "What is it called?")
    assert stored(memory) == [
        ("user", "My dog is called Biscuit."),
        ("assistant", "Fine."),
        ("user", "What is it called?"),
        ("assistant", "Biscuit."),
    ]
    assert [message.content for message in prompt(model)][:2] == ["My dog is called Biscuit.", "Fine."]
    assert list(memory.journal.turns())[3].in_view == (1, 2, 3)


def test_a_message_that_is_sent_again_is_stored_once_and_is_no_memory_of_itself(memory: Memory) -> None:
    converse(memory, "First.", "My dog is called Biscuit.")
    model = converse(memory, "Second.", "My dog is called Biscuit.")
    assert stored(memory) == [
        ("user", "My dog is called Biscuit."),
        ("assistant", "First."),
        ("assistant", "Second."),
    ]
    assert "<memory>" not in prompt(model)[0].content
    converse(memory, "Second.", "My dog is called Biscuit.")
    assert memory.journal.count() == 3


def test_the_prompt_holds_the_history_as_it_was_edited(memory: Memory) -> None:
    converse(memory, "Fine.", "My dog is called Biscuit.")
    converse(memory, "Biscuit.", "My dog is called Biscuit.", "Fine.", "What is it called?")
    model = converse(memory, "Rex.", "My dog is called Rex.", "Changed.", "What is it called?")
    assert [message.content for message in prompt(model)][:2] == ["My dog is called Rex.", "Changed."]
    edited = list(memory.journal.turns())[-1]
    assert edited.text == "Rex."
    assert edited.derived  # the journal does not know "Changed."


def test_the_same_words_twice_in_a_conversation_are_two_turns(memory: Memory) -> None:
    converse(memory, "One.", "Yes.")
    converse(memory, "Two.", "Yes.", "One.", "Yes.")
    assert [text for role, text in stored(memory) if role == "user"] == ["Yes.", "Yes."]


def test_another_session_has_turns_of_its_own(memory: Memory) -> None:
    converse(memory, "One.", "Hello.", session="a")
    converse(memory, "Two.", "Hello.", session="b")
    assert memory.journal.count() == 4


def test_what_was_forgotten_does_not_come_back_with_the_history(memory: Memory) -> None:
    converse(memory, "So it is Biscuit.", "My dog is called Biscuit.")
    memory.forget([1])
    assert memory.journal.count() == 0
    converse(memory, "Biscuit.", "My dog is called Biscuit.", "So it is Biscuit.", "What is it called?")
    assert stored(memory) == [("user", "What is it called?")]
    converse(memory, "So it is Biscuit.", "My dog is called Biscuit.")
    assert stored(memory) == [("user", "What is it called?")]


def test_a_recollection_that_the_history_holds_is_left_out(memory: Memory) -> None:
    memory.remember("notes", "user", "My dog is called Biscuit.")
    memory.remember("notes", "user", "My dog likes the sea.")
    model = converse(memory, "Yes.", "My dog is called Biscuit.", "Fine.", "What does my dog like?")
    notes = prompt(model)[-1].content
    assert "likes the sea" in notes
    assert "Biscuit" not in notes


def test_a_reply_ends_at_a_stop_text_which_is_not_part_of_it(memory: Memory) -> None:
    model = ScriptedModel(["One two END three."])
    settings = Settings(stop=("END",))
    events = list(GivenConversation(memory, model, "chat", settings, secret=SECRET).send("Count."))
    assert "".join(event.text for event in events if isinstance(event, Token)) == "One two "
    assert stored(memory)[1] == ("assistant", "One two")


def test_a_reply_that_is_given_up_is_stored_as_far_as_it_came(memory: Memory) -> None:
    conversation = GivenConversation(memory, ScriptedModel(["One two three."]), "chat", secret=SECRET)
    events = conversation.send("Count.")
    for event in events:
        if isinstance(event, Token):
            break
    events.close()  # type: ignore[attr-defined]
    assert stored(memory) == [("user", "Count."), ("assistant", "One")]


def test_ids_depend_on_the_secret_and_on_where_a_text_ends() -> None:
    messages = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    edited = [Message("user", "a"), Message("assistant", "x"), Message("user", "c")]
    assert turn_ids("s", messages, b"1") != turn_ids("s", messages, b"2")
    ids, edited_ids = turn_ids("s", messages, SECRET), turn_ids("s", edited, SECRET)
    assert [first == second for first, second in zip(ids, edited_ids, strict=True)] == [True, False, True]
    assert keyed_digest(SECRET, "ab", "c") != keyed_digest(SECRET, "a", "bc")
