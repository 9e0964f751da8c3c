"""One conversation: its events, what the journal holds after each ending, and what memory is handed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

import pytest

from memagent.agent.conversation import Channel, Conversation, Settings
from memagent.agent.events import Event, Recalled, Remembered, Token, TurnBegan, TurnEnded
from memagent.agent.forgetting import forget
from memagent.agent.memory import Memory
from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.fakes import EchoModel, ScriptedModel
from memagent.agent.prompt import Budget
from memagent.backends import registry
from memagent.backends.errors import InputError, ModelError, SettingError
from memagent.backends.in_memory import InMemory
from memagent.backends.protocol import Attachment, LocalModel
from tests.conftest import OpenMemory

FACT = "My dog is called Biscuit."
QUESTION = "What is the dog called?"
ATTACHED: ContextVar[str] = ContextVar("attached", default="nothing")


class FailingModel(EchoModel):
    """Breaks after the given pieces."""

    def __init__(self, *pieces: str) -> None:
        self._pieces = pieces

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        yield from self._pieces
        raise ModelError("the model broke")


class ClosingModel(EchoModel):
    """Speaks forever, and notes when its stream was closed."""

    closed = False

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        try:
            while True:
                yield "word "
        finally:
            self.closed = True


class LocalScriptedModel(ScriptedModel):
    """Looks like a model in this process, which a model channel can act in."""

    digest = "0"
    tokenizer = None
    model = None


class WithChannel(InMemory):
    """Has a model channel that notes when it is open."""

    log: ClassVar[list[str]] = []

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Attachment]:
        self.log.append(f"attached to {query}")
        try:
            yield Attachment(self.recall(query))
        finally:
            self.log.append("detached")


@pytest.fixture
def with_channel(open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """A memory whose backend has a model channel."""
    monkeypatch.setattr(registry, "get", lambda name: WithChannel)
    monkeypatch.setattr(WithChannel, "log", [])
    return open_memory()


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    return open_memory()


def send(conversation: Conversation, text: str) -> tuple[Recalled, TurnEnded]:
    events = list(conversation.send(text))
    recalled, ended = events[1], events[-1]
    assert isinstance(recalled, Recalled)
    assert isinstance(ended, TurnEnded)
    return recalled, ended


def until_token(events: Iterator[Event], count: int = 1) -> list[str]:
    """Listen until so many pieces of the reply have come."""
    heard: list[str] = []
    for event in events:
        if isinstance(event, Token):
            heard.append(event.text)
            if len(heard) == count:
                break
    return heard


def journal_of(memory: Memory) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in memory.journal.turns()]


def memory_holds(memory: Memory) -> list[str]:
    """What was handed to the backend, oldest first."""
    found = memory.recall("dog Biscuit", limit=99)
    return [item.text for item in sorted(found, key=lambda item: item.seqs)]


# a turn from beginning to end


def test_events_come_in_order(memory: Memory) -> None:
    events = list(Conversation(memory, ScriptedModel(["Nice to know."]), "monday").send(FACT))
    asked, answered = memory.journal.turns()
    assert [type(event) for event in events] == [
        TurnBegan,
        Recalled,
        Token,
        Token,
        Token,
        Remembered,
        Remembered,
        TurnEnded,
    ]
    assert events[0] == TurnBegan(asked)
    assert [event.text for event in events if isinstance(event, Token)] == ["Nice ", "to ", "know."]
    taken = [(event.turn, event.taken) for event in events if isinstance(event, Remembered)]
    assert taken == [(asked, True), (answered, True)]


def test_the_journal_holds_both_sides_after_a_turn(memory: Memory) -> None:
    send(Conversation(memory, ScriptedModel(["  Nice to know.\n"]), "monday"), FACT)
    asked, answered = memory.journal.turns()
    assert (asked.session, asked.role, asked.text, asked.in_view) == ("monday", "user", FACT, ())
    assert (answered.session, answered.role, answered.text) == ("monday", "assistant", "Nice to know.")
    assert (answered.in_view, answered.derived) == ((1,), False)
    assert memory.position.seq == 2


def test_the_message_is_in_the_journal_before_the_model_is_asked(memory: Memory) -> None:
    events = Conversation(memory, ScriptedModel(["unused"]), "monday").send(FACT)
    assert journal_of(memory) == []
    assert isinstance(next(events), TurnBegan)
    assert journal_of(memory) == [("user", FACT)]


def test_the_model_sees_the_session_so_far(memory: Memory) -> None:
    model = ScriptedModel(["one", "two"])
    conversation = Conversation(memory, model, "monday", Settings(system="Be kind."))
    send(conversation, "first")
    send(conversation, "second")
    assert [(message.role, message.content) for message in model.prompts[1]] == [
        ("system", "Be kind."),
        ("user", "first"),
        ("assistant", "one"),
        ("user", "second"),
    ]
    assert memory.journal.get([4])[0].in_view == (1, 2, 3)


def test_a_session_is_continued_by_a_new_conversation(memory: Memory) -> None:
    send(Conversation(memory, ScriptedModel(["one"]), "monday"), "first")
    model = ScriptedModel(["two"])
    send(Conversation(memory, model, "monday"), "second")
    assert [message.content for message in model.prompts[0][1:]] == ["first", "one", "second"]


def test_the_end_tells_reply_sizes_and_times(memory: Memory) -> None:
    model = ScriptedModel(["one two three"])
    recalled, ended = send(Conversation(memory, model, "monday", Settings(system="Be kind.")), "hello you")
    assert (ended.reply, ended.stopped) == ("one two three", False)
    assert (ended.usage.reply_tokens, ended.usage.window) == (3, model.window)
    assert (ended.usage.prompt_tokens, ended.usage.recollection_tokens) == (model.count(model.prompts[0]), 0)
    assert 0 <= recalled.seconds == ended.seconds.recall <= ended.seconds.first_token <= ended.seconds.total


def test_a_reply_is_as_long_as_the_sampling_allows(memory: Memory) -> None:
    settings = Settings(sampling=Sampling(max_tokens=2))
    _, ended = send(Conversation(memory, ScriptedModel(["one two three"]), "monday", settings), "hello")
    assert (ended.reply, ended.stopped) == ("one two", False)


def test_an_empty_reply_is_not_journalled(memory: Memory) -> None:
    events = list(Conversation(memory, ScriptedModel([" \n"]), "monday").send("hello"))
    assert journal_of(memory) == [("user", "hello")]
    assert sum(isinstance(event, Remembered) for event in events) == 1
    ended = events[-1]
    assert isinstance(ended, TurnEnded)
    assert (ended.reply, ended.stopped) == ("", False)


def test_a_reply_with_a_nul_character_is_kept(memory: Memory) -> None:
    send(Conversation(memory, ScriptedModel(["one\0 two"]), "monday"), "hello")
    assert [role for role, _ in journal_of(memory)] == ["user", "assistant"]


# recalling


def test_a_fact_of_another_session_is_recalled_and_shown(memory: Memory) -> None:
    send(Conversation(memory, ScriptedModel(["Noted."]), "monday"), FACT)
    model = ScriptedModel(["Biscuit."])
    conversation = Conversation(memory, model, "tuesday")
    recalled, ended = send(conversation, QUESTION)
    assert [item.text for item in recalled.shown] == [FACT]
    assert conversation.last_recalled == recalled
    assert model.prompts[0][-1].content.startswith("<memory>\n- [")
    assert model.prompts[0][-1].content.endswith(f"user] {FACT}\n</memory>\n\n{QUESTION}")
    assert ended.usage.recollection_tokens > 0
    assert memory.journal.get([4])[0].in_view == (1, 3)


def test_what_was_recalled_is_not_remembered_again(memory: Memory) -> None:
    memory.remember("monday", "user", FACT)
    events = list(Conversation(memory, EchoModel(), "tuesday").send(QUESTION))
    answered = memory.journal.get([3])[0]
    assert "Biscuit" in answered.text
    assert answered.derived
    kept = [event for event in events if isinstance(event, Remembered)]
    assert [(event.turn.seq, event.taken) for event in kept] == [(2, True), (3, False)]
    assert "journal only" in kept[1].why
    assert [item.text for item in memory.recall("Biscuit")] == [FACT]
    memory.rebuild()
    assert [item.text for item in memory.recall("Biscuit")] == [FACT]
    assert memory.stats().items == 2


def test_a_reply_after_a_derived_one_is_derived_too(memory: Memory) -> None:
    memory.remember("monday", "user", FACT)
    conversation = Conversation(memory, ScriptedModel(["It is Biscuit.", "Yes, Biscuit."]), "tuesday")
    send(conversation, QUESTION)
    recalled, _ = send(conversation, "Sure?")
    assert recalled.shown == ()
    last = memory.journal.get([5])[0]
    assert (last.derived, last.in_view) == (True, (2, 3, 4))
    assert [item.text for item in memory.recall("Biscuit")] == [FACT]


def test_the_message_itself_is_not_recalled(memory: Memory) -> None:
    recalled, _ = send(Conversation(memory, ScriptedModel(["Noted."]), "monday"), FACT)
    assert recalled.found == ()


def test_turns_of_this_session_in_the_prompt_are_not_recalled_again(memory: Memory) -> None:
    model = ScriptedModel(["Noted.", "Biscuit."])
    conversation = Conversation(memory, model, "monday")
    send(conversation, FACT)
    recalled, _ = send(conversation, QUESTION)
    assert recalled.found == ()
    assert sum(message.content.count("Biscuit") for message in model.prompts[1]) == 1


def test_turns_of_this_session_that_no_longer_fit_are_recalled(memory: Memory) -> None:
    settings = Settings(budget=Budget(recent=0))
    conversation = Conversation(memory, ScriptedModel(["Noted.", "Biscuit."]), "monday", settings)
    send(conversation, FACT)
    recalled, _ = send(conversation, QUESTION)
    assert [item.text for item in recalled.shown] == [FACT]


def test_at_most_limit_recollections_are_found(memory: Memory) -> None:
    for place in range(8):
        memory.remember("old", "user", f"dog note {place}")
    for place in range(3):
        memory.remember("new", "user", f"dog talk {place}")
    conversation = Conversation(memory, ScriptedModel(["ok"]), "new", Settings(limit=4))
    recalled, _ = send(conversation, "dog")
    assert [item.session for item in recalled.found] == ["old"] * 4


def test_found_but_not_shown_when_the_budget_is_small(memory: Memory) -> None:
    memory.remember("monday", "user", FACT)
    settings = Settings(budget=Budget(recollections=0))
    recalled, ended = send(Conversation(memory, ScriptedModel(["ok"]), "tuesday", settings), QUESTION)
    assert ([item.text for item in recalled.found], recalled.shown) == ([FACT], ())
    assert ended.usage.recollection_tokens == 0
    answered = memory.journal.get([3])[0]
    assert (answered.derived, answered.in_view) == (False, (2,))


def test_many_turns_in_sight_do_not_hide_a_fact_of_another_session(memory: Memory) -> None:
    memory.remember("old", "user", "The dog is called Biscuit.")
    for place in range(12):
        memory.remember("new", "user", f"dog talk {place}")
    recalled, _ = send(Conversation(memory, ScriptedModel(["ok"]), "new"), "dog")
    assert [item.text for item in recalled.shown] == ["The dog is called Biscuit."]


def test_a_tool_turn_of_this_session_is_shown_or_recalled(memory: Memory) -> None:
    memory.remember("monday", "tool", "The dog register says: Biscuit.")
    model = ScriptedModel(["ok"])
    send(Conversation(memory, model, "monday"), "dog register")
    assert "Biscuit" in "".join(message.content for message in model.prompts[0])


# endings before the end


@pytest.mark.parametrize("text", ["", "  \n", "a\0b", "half \ud83d"])
def test_a_message_that_cannot_be_kept_is_refused_and_nothing_stored(text: str, memory: Memory) -> None:
    model = ScriptedModel(["unused"])
    with pytest.raises(InputError):
        list(Conversation(memory, model, "monday").send(text))
    assert (journal_of(memory), model.prompts) == ([], [])


def test_a_message_too_long_for_the_window_is_refused_and_nothing_stored(memory: Memory) -> None:
    model = ScriptedModel(["unused"])
    with pytest.raises(InputError, match="Nothing was stored"):
        list(Conversation(memory, model, "monday").send("word " * 9000))
    assert (journal_of(memory), model.prompts) == ([], [])


def test_a_bad_session_name_is_refused(memory: Memory) -> None:
    with pytest.raises(InputError, match="session name"):
        Conversation(memory, EchoModel(), "two\nlines")


@pytest.mark.parametrize(
    ("pieces", "kept"), [((), []), (("Half ", "a "), [("assistant", "Half a")]), ((" ",), [])]
)
def test_the_message_stays_when_the_model_fails_with_what_it_had_said(
    pieces: tuple[str, ...], kept: list[tuple[str, str]], memory: Memory
) -> None:
    with pytest.raises(ModelError, match="the model broke"):
        list(Conversation(memory, FailingModel(*pieces), "monday").send(FACT))
    assert journal_of(memory) == [("user", FACT), *kept]
    assert [item.text for item in memory.recall(QUESTION)] == [FACT]


def test_a_conversation_goes_on_after_a_failed_reply(memory: Memory) -> None:
    with pytest.raises(ModelError):
        list(Conversation(memory, FailingModel("Half"), "monday").send("first"))
    model = ScriptedModel(["whole"])
    send(Conversation(memory, model, "monday"), "second")
    assert [message.content for message in model.prompts[0][1:]] == ["first", "Half", "second"]


def test_stopping_keeps_the_reply_so_far_and_says_so(memory: Memory) -> None:
    model = ClosingModel()
    conversation = Conversation(memory, model, "monday")
    events = conversation.send("hello")
    assert until_token(events, 3) == ["word "] * 3
    conversation.stop()
    rest = list(events)
    ended = rest[-1]
    assert isinstance(ended, TurnEnded)
    assert (ended.stopped, ended.reply) == (True, "word word word")
    assert not any(isinstance(event, Token) for event in rest)
    assert model.closed
    assert journal_of(memory) == [("user", "hello"), ("assistant", "word word word")]
    assert memory.position.seq == 2


def test_a_stop_ends_one_reply_only(memory: Memory) -> None:
    conversation = Conversation(memory, ScriptedModel(["one two", "three four"]), "monday")
    events = conversation.send("first")
    until_token(events)
    conversation.stop()
    list(events)
    _, ended = send(conversation, "second")
    assert (ended.reply, ended.stopped) == ("three four", False)


def test_abandoning_the_events_keeps_the_reply_so_far(memory: Memory) -> None:
    model = ClosingModel()
    events = Conversation(memory, model, "monday").send("hello")
    until_token(events, 2)
    events.close()  # type: ignore[attr-defined]
    assert journal_of(memory) == [("user", "hello"), ("assistant", "word word")]
    assert memory.journal.get([2])[0].in_view == (1,)
    assert model.closed
    assert memory.position.seq == 2


def test_abandoning_the_events_at_once_keeps_the_message(memory: Memory) -> None:
    events = Conversation(memory, ScriptedModel(["unused"]), "monday").send(FACT)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert journal_of(memory) == [("user", FACT)]
    assert [item.text for item in memory.recall(QUESTION)] == [FACT]


# channels


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


@pytest.mark.parametrize(("wanted", "used"), [("auto", "model"), ("model", "model"), ("both", "both")])
def test_a_local_model_answers_with_the_channel_attached(
    wanted: Channel, used: Channel, with_channel: Memory
) -> None:
    with_channel.remember("monday", "user", FACT)
    model = LocalScriptedModel(["It is Biscuit."])
    conversation = Conversation(with_channel, model, "tuesday", Settings(channel=wanted))
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


def test_a_reply_through_the_channel_is_forgotten_with_what_the_channel_recalled(
    with_channel: Memory,
) -> None:
    with_channel.remember("monday", "user", FACT)
    send(Conversation(with_channel, LocalScriptedModel(["It is Biscuit."]), "tuesday"), QUESTION)
    forget(with_channel, [1])
    assert journal_of(with_channel) == [("user", QUESTION)]


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
    ) -> Iterator[Attachment]:
        token = ATTACHED.set(query)
        try:
            yield Attachment([], frozenset())
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
    told = [one.probe(text) for one, text in ((ana, "of Ana"), (bob, "of Bob"), (plain, "of Cleo"))]
    events = [event for turn in zip(*told, strict=True) for event in turn]
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
        ) -> Iterator[Attachment]:
            excluded.append(exclude)
            yield Attachment(self.recall(query), frozenset({1, 2}))

    monkeypatch.setattr(registry, "get", lambda name: Seeing)
    memory = open_memory()
    memory.remember("sunday", "user", "It was dull.")
    memory.remember("sunday", "user", FACT)
    memory.remember("monday", "user", "The sea is warm.")
    conversation = Conversation(memory, LocalScriptedModel("Biscuit."), "monday", Settings(channel="model"))
    list(conversation.send(QUESTION))
    assert excluded == [{3}]
    assert set(memory.journal.get([5])[0].in_view) == {1, 2, 3, 4}
    assert forget(memory, [1]).replies == (5,)
