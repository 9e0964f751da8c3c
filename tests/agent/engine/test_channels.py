"""How memory reaches the model: as text, or inside it, for one reply only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest

from memagent.agent.engine.conversation import Channel, Conversation, Settings
from memagent.agent.engine.events import TurnEnded
from memagent.agent.memory import Memory
from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.fakes import EchoModel
from memagent.backends import registry
from memagent.backends.errors import SettingError
from memagent.backends.protocol import Injection, LocalModel
from memagent.backends.records import Turn, WriteResult
from tests.agent.conversing import (
    ATTACHED,
    FACT,
    QUESTION,
    LocalScriptedModel,
    WithChannel,
    journal_of,
    memory_holds,
    send,
    until_token,
)
from tests.conftest import OpenMemory


@pytest.fixture
def with_channel(open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """A memory whose backend has a model channel."""
    monkeypatch.setattr(registry, "get", lambda name: WithChannel)
    monkeypatch.setattr(WithChannel, "log", [])
    return open_memory()


@pytest.mark.parametrize("channel", ["model", "both"])
def test_a_model_channel_needs_a_backend_that_has_one(channel: Channel, memory: Memory) -> None:
    with pytest.raises(SettingError, match="in_memory has no model channel"):
        Conversation(memory, EchoModel(), "monday", Settings(channel=channel))
    assert journal_of(memory) == []


def test_without_a_model_channel_memory_reaches_the_model_as_text(memory: Memory) -> None:
    assert Conversation(memory, EchoModel(), "monday").channel == "text"
    assert Conversation(memory, EchoModel(), "monday", Settings(channel="text")).channel == "text"


def test_a_model_channel_needs_a_local_model(with_channel: Memory) -> None:
    with pytest.raises(SettingError, match="echo is not a local model"):
        Conversation(with_channel, EchoModel(), "monday", Settings(channel="model"))
    assert Conversation(with_channel, EchoModel(), "monday").channel == "text"


@pytest.mark.parametrize(("channel", "used"), [("auto", "model"), ("model", "model"), ("both", "both")])
def test_a_local_model_answers_with_the_channel_attached(
    channel: Channel, used: Channel, with_channel: Memory
) -> None:
    with_channel.remember("monday", "user", FACT)
    model = LocalScriptedModel(["It is Biscuit."])
    conversation = Conversation(with_channel, model, "tuesday", Settings(channel=channel))
    assert conversation.channel == used
    send(conversation, QUESTION)
    assert WithChannel.log == [f"attached to {QUESTION}", "detached"]
    assert (FACT in model.prompts[0][-1].content) == (used == "both")
    assert memory_holds(with_channel) == [FACT, QUESTION]


def test_the_channel_is_detached_when_a_reply_is_abandoned(with_channel: Memory) -> None:
    events = Conversation(with_channel, LocalScriptedModel(["one two three"]), "monday").send("hello")
    until_token(events)
    assert WithChannel.log == ["attached to hello"]
    events.close()  # type: ignore[attr-defined]
    assert WithChannel.log == ["attached to hello", "detached"]


def test_the_channel_is_detached_before_memory_reads_the_turns(
    with_channel: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember = WithChannel.remember

    def logged(self: WithChannel, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        WithChannel.log.append("read")
        return remember(self, turns)

    monkeypatch.setattr(WithChannel, "remember", logged)
    events = Conversation(with_channel, LocalScriptedModel(["one two three"]), "monday").send("hello")
    until_token(events)
    events.close()  # type: ignore[attr-defined]
    assert WithChannel.log == ["attached to hello", "detached", "read"]


def test_a_reply_through_the_channel_is_forgotten_with_what_the_channel_recalled(
    with_channel: Memory,
) -> None:
    with_channel.remember("monday", "user", FACT)
    send(Conversation(with_channel, LocalScriptedModel(["It is Biscuit."]), "tuesday"), QUESTION)
    with_channel.forget([1])
    assert journal_of(with_channel) == [("user", QUESTION)]


class Refusing(WithChannel):
    """Cannot share the model with another memory."""

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Injection]:
        raise SettingError("Two memories inside one model need whole chunks.")
        yield Injection()


def test_a_channel_that_cannot_be_opened_stores_nothing(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "get", lambda name: Refusing)
    memory = open_memory()
    with pytest.raises(SettingError, match="whole chunks"):
        send(Conversation(memory, LocalScriptedModel(["It is Biscuit."]), "monday"), QUESTION)
    assert journal_of(memory) == []


class ContextModel(LocalScriptedModel):
    """Says what is attached in the context it answers in, a word at a time."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        for _ in range(3):
            yield f"{ATTACHED.get()} "


class InContext(WithChannel):
    """Attaches by a context variable, as a backend does that acts inside a model."""

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Injection]:
        token = ATTACHED.set(query)
        try:
            yield Injection([], frozenset())
        finally:
            ATTACHED.reset(token)


def test_replies_told_in_turns_on_one_model_do_not_see_each_others_memory(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "get", lambda name: InContext)
    model = ContextModel("unused")
    ana, bob = (
        Conversation(open_memory(user), model, "monday", Settings(channel="model")) for user in ("ana", "bob")
    )
    plain = Conversation(open_memory("cleo"), model, "monday", Settings(channel="text"))
    questions = ((ana, "of Ana"), (bob, "of Bob"), (plain, "of Cleo"))
    streams = [conversation.probe(text) for conversation, text in questions]
    events = [event for turn in zip(*streams, strict=True) for event in turn]
    replies = [event.reply for event in events if isinstance(event, TurnEnded)]
    assert replies == ["of Ana of Ana of Ana", "of Bob of Bob of Bob", "nothing nothing nothing"]
    assert ATTACHED.get() == "nothing"


def test_what_the_prompt_shows_is_not_attended_and_what_was_attended_is_in_view(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    excluded: list[Collection[int]] = []

    class Seeing(WithChannel):
        @contextmanager
        def attached(
            self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
        ) -> Iterator[Injection]:
            excluded.append(exclude)
            yield Injection(self.recall(query), frozenset({1, 2}))

    monkeypatch.setattr(registry, "get", lambda name: Seeing)
    memory = open_memory()
    memory.remember("sunday", "user", "It was dull.")
    memory.remember("sunday", "user", FACT)
    memory.remember("monday", "user", "The sea is warm.")
    conversation = Conversation(memory, LocalScriptedModel("Biscuit."), "monday", Settings(channel="model"))
    list(conversation.send(QUESTION))
    assert excluded == [{3}]
    reply = memory.journal.get([5])[0]
    assert (set(reply.in_view), reply.recalled) == ({1, 2, 3, 4}, (2,))
    assert memory.forget([1]).replies == (5,)


def test_what_is_pinned_reaches_the_model_as_text_in_the_model_channel_too(with_channel: Memory) -> None:
    with_channel.remember("monday", "user", FACT)
    with_channel.journal.pin([1])
    model = LocalScriptedModel(["Biscuit."])
    recalled, _ = send(Conversation(with_channel, model, "tuesday", Settings(channel="model")), "zzz")
    assert [item.text for item in recalled.in_view] == [FACT]
    assert FACT in model.prompts[-1][-1].content
    assert "between <memory> and </memory>" in model.prompts[-1][0].content
