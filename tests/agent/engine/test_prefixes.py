"""Conversations with a model that keeps what it has read: the same replies, nothing recalled is kept, forgetting drops it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import pytest

from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.engine.prompt import Budget
from memagent.agent.home import Home
from memagent.agent.journal.items import NewItem
from memagent.agent.memory import Memory
from memagent.agent.memory.opening import open_journal
from memagent.agent.models.chat import Sampling
from memagent.agent.models.local import LocalChatModel
from memagent.agent.models.prefill import PrefixReader
from memagent.backends.rope_map import calibration
from tests.agent.conversing import send, until_token
from tests.agent.models.local_models import local_model, tokens_read
from tests.backends.rope_map import tiny
from tests.conftest import OpenMemory

FACTS = ("My dog is called Biscuit.", "My sister lives in Porto.", "The bicycle code is 4071.")
QUESTIONS = ("What is my dog called?", "Where does my sister live?", "And what is the bicycle code?")
SHORT = Settings(sampling=Sampling(max_tokens=8))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LocalChatModel:
    return local_model(tmp_path_factory.mktemp("tiny") / "model", tiny.model_of(tiny.config()))


@pytest.fixture
def local(loaded: LocalChatModel, monkeypatch: pytest.MonkeyPatch) -> LocalChatModel:
    """A model that has kept nothing yet; calibrating its heads takes no time."""
    loaded.prefix_reader = PrefixReader(loaded.model)
    monkeypatch.setattr(calibration, "calibrate", lambda *_: tiny.calibrated_heads())
    return loaded


def without_scope(patch: pytest.MonkeyPatch) -> None:
    """Let conversations generate without a scope, so that nothing is kept."""
    patch.setattr("memagent.agent.engine.conversation.PREFIX_SCOPE", ContextVar("unused"))


def kept_texts(local: LocalChatModel) -> list[str]:
    """What the model keeps, as text."""
    return [local.tokenizer.decode(entry.ids) for entry in local.prefix_reader.cache._entries]


def dialogue(memory: Memory, local: LocalChatModel, settings: Settings = SHORT) -> list[tuple[str, int]]:
    """Tell facts in one session and ask in another; return the replies, and the number of recollections."""
    for text in FACTS:
        memory.remember("monday", "user", text)
    results = []
    for text in (*QUESTIONS, *QUESTIONS[::-1]):
        recalled, ended = send(Conversation(memory, local, "tuesday", settings), text)
        results.append((ended.reply, len(recalled.recollections)))
    return results


@pytest.mark.parametrize("backend", ["in_memory", "rag", "titans", "memo", "rope_map"])
def test_replies_are_the_same_as_without_what_was_kept(
    backend: str, local: LocalChatModel, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"backend": backend, "make_model": lambda: local}
    if backend != "in_memory":
        options["settings"] = {"abstain": "false"}
    with tokens_read(local) as ids:
        replies = dialogue(open_memory("ana", **options), local)
    with monkeypatch.context() as patch, tokens_read(local) as ids_without:
        without_scope(patch)
        replies_without = dialogue(open_memory("bob", **options), local)
    assert replies == replies_without
    assert any(count for _, count in replies)
    assert len(ids) < len(ids_without)


def test_replies_are_the_same_where_the_history_is_cut(
    local: LocalChatModel, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(budget=Budget(recent=120), sampling=Sampling(max_tokens=8))
    memory, other = open_memory("ana"), open_memory("bob")
    replies = [dialogue(memory, local, settings) for _ in range(3)]
    with monkeypatch.context() as patch:
        without_scope(patch)
        assert [dialogue(other, local, settings) for _ in range(3)] == replies


@pytest.mark.parametrize("backend", ["in_memory", "titans"])
def test_nothing_recalled_and_no_date_is_kept(
    backend: str, local: LocalChatModel, open_memory: OpenMemory
) -> None:
    settings = {"abstain": "false"} if backend == "titans" else None
    memory = open_memory("ana", backend, settings, make_model=lambda: local)
    memory.remember("monday", "user", FACTS[0])
    conversation = Conversation(memory, local, "tuesday", SHORT)
    for text in (QUESTIONS[0], QUESTIONS[0], "Good morning!"):
        send(conversation, text)
    (text,) = kept_texts(local)
    assert text.count(QUESTIONS[0]) == 2
    assert FACTS[0] not in text
    assert "- [" not in text
    assert "Today is" not in text


def test_a_conversation_goes_on_in_another_object_where_the_last_one_ended(
    local: LocalChatModel, memory: Memory
) -> None:
    for _ in range(4):
        send(Conversation(memory, local, "monday", SHORT), "Tell me more about the dog.")
    with tokens_read(local) as ids:
        _, ended = send(Conversation(memory, local, "monday", SHORT), "And now?")
    assert len(ids) < ended.usage.prompt_tokens / 2


def test_an_interrupted_reply_leaves_the_history_readable(
    local: LocalChatModel, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(memory: Memory) -> str:
        events = Conversation(memory, local, "monday").send("Tell me a long story.")
        until_token(events, 2)
        events.close()  # type: ignore[attr-defined]
        turns = list(memory.journal.turns())
        memory.forget([turns[-1].seq])  # how long it became depends on the clock
        return send(Conversation(memory, local, "monday", SHORT), "Go on.")[1].reply

    reply = interrupted(open_memory("ana"))
    with monkeypatch.context() as patch:
        without_scope(patch)
        assert interrupted(open_memory("bob")) == reply


# isolation and forgetting


def test_users_share_nothing(local: LocalChatModel, open_memory: OpenMemory) -> None:
    for user in ("ana", "bob"):
        with tokens_read(local) as ids:
            _, ended = send(Conversation(open_memory(user), local, "monday", SHORT), "Good morning!")
        assert len(ids) >= ended.usage.prompt_tokens
    assert len(kept_texts(local)) == 2


@pytest.mark.parametrize("change", ["forget", "correct", "outdated"])
def test_a_forgetting_drops_what_was_kept_at_once(
    change: str, local: LocalChatModel, open_memory: OpenMemory
) -> None:
    memory, other = open_memory("ana"), open_memory("bob")
    for user_memory in (memory, other):
        for text in (FACTS[0], "Good morning!"):
            send(Conversation(user_memory, local, "monday", SHORT), text)
    if change == "forget":
        memory.forget([1])
    elif change == "correct":
        memory.correct(1, "My cat is called Biscuit.")
    else:
        for value in ("old", "new"):
            memory.journal.put_items([NewItem(("notes",), "key", {"text": value}, value)])
        memory.finish_forgetting()
    (text,) = kept_texts(local)
    assert send(Conversation(memory, local, "monday", SHORT), "Hello?")
    assert text == kept_texts(local)[0]
    assert len(kept_texts(local)) == 2


def test_a_forgetting_of_another_process_drops_what_was_kept_before_the_next_reply(
    local: LocalChatModel, home: Home, open_memory: OpenMemory
) -> None:
    memory = open_memory("ana")
    for text in (FACTS[0], "Good morning!"):
        send(Conversation(memory, local, "monday", SHORT), text)
    with open_journal(home, "ana") as journal:
        journal.forget([1, *journal.replies_that_saw([1])])
    assert FACTS[0] in kept_texts(local)[0]
    send(Conversation(memory, local, "monday", SHORT), "Good evening!")
    assert not any(FACTS[0] in text for text in kept_texts(local))


def test_a_forgetting_during_a_reply_leaves_nothing_of_it(local: LocalChatModel, memory: Memory) -> None:
    send(Conversation(memory, local, "monday", SHORT), FACTS[0])
    events = Conversation(memory, local, "monday", SHORT).send("Good morning!")
    until_token(events)
    memory.forget([1])
    assert kept_texts(local) == []
    list(events)
    assert kept_texts(local) == []
