"""The agent as programs use it: ask, stream, remember, recall, forget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memagent.agent.engine.agent import Agent
from memagent.agent.engine.conversation import Settings
from memagent.agent.engine.events import Recalled, Remembered, Token, TurnBegan, TurnEnded
from memagent.agent.home import Home
from memagent.agent.models.fakes import EchoModel, ScriptedModel
from memagent.agent.testing import tiny_model
from memagent.backends import registry
from memagent.backends.errors import InputError, StorageError
from memagent.backends.in_memory import InMemory
from memagent.backends.records import Turn, WriteResult
from tests.agent.conversing import FACT, QUESTION
from tests.conftest import OpenMemory


class Surprised(InMemory):
    """Says how surprising each turn was."""

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        super().remember(turns)
        return [WriteResult(turn.seq, surprise=float(len(turn.text)), strength=0.5) for turn in turns]


@pytest.fixture
def agent(open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    monkeypatch.setattr(registry, "get", lambda name: Surprised)
    with Agent(open_memory(), ScriptedModel(["Nice.", "It is Biscuit."])) as agent:
        yield agent


def test_remember_says_what_became_of_the_turn(agent: Agent) -> None:
    event = agent.remember(FACT, session="monday", speaker="Ana")
    (turn,) = agent.memory.journal.turns()
    assert (turn.session, turn.role, turn.text, turn.speaker) == ("monday", "user", FACT, "Ana")
    result = WriteResult(1, surprise=float(len(FACT)), strength=0.5)
    assert event == Remembered(
        turn, journal_only=False, why="Memory has read it.", results={"in_memory": result}
    )


def test_remember_takes_any_role_and_time(agent: Agent) -> None:
    when = datetime(2024, 5, 1, tzinfo=UTC)
    event = agent.remember("It rains.", session="monday", role="tool", created_at=when)
    assert (event.turn.role, event.turn.created_at) == ("tool", when)


def test_a_derived_turn_is_remembered_by_the_journal_only(agent: Agent) -> None:
    event = agent.remember("It is Biscuit.", session="monday", role="assistant", derived=True)
    assert (event.journal_only, event.results) == (True, {})
    assert "journal only" in event.why
    assert agent.recall("Biscuit") == []


def test_what_cannot_be_stored_is_refused(agent: Agent) -> None:
    with pytest.raises(InputError):
        agent.remember("  ", session="monday")
    assert agent.memory.journal.count() == 0


def test_recall_needs_no_session_and_gives_at_most_limit(agent: Agent) -> None:
    for number in range(4):
        agent.remember(f"Dog number {number} is called Rex.", session="monday")
    assert [item.session for item in agent.recall("dog")] == ["monday"] * 4
    assert len(agent.recall("dog", limit=2)) == 2
    assert agent.recall("parrot") == []


def test_stream_yields_the_events_of_the_turn_with_the_results_of_both_sides(agent: Agent) -> None:
    events = list(agent.stream(FACT, session="monday"))
    assert [type(event) for event in events] == [
        TurnBegan,
        Recalled,
        Token,
        Remembered,
        Remembered,
        TurnEnded,
    ]
    remembered = [event for event in events if isinstance(event, Remembered)]
    assert [event.turn.text for event in remembered] == [FACT, "Nice."]
    assert [event.results["in_memory"] for event in remembered] == [
        WriteResult(1, surprise=float(len(FACT)), strength=0.5),
        WriteResult(2, surprise=float(len("Nice.")), strength=0.5),
    ]


def test_a_reply_with_recollections_in_view_has_no_result(agent: Agent) -> None:
    list(agent.stream(FACT, session="monday"))
    events = list(agent.stream(QUESTION, session="tuesday"))
    question, reply = (event for event in events if isinstance(event, Remembered))
    assert question.results["in_memory"] == WriteResult(3, surprise=float(len(QUESTION)), strength=0.5)
    assert (reply.journal_only, reply.results) == (True, {})


def test_stream_stores_nothing_before_it_is_iterated(agent: Agent) -> None:
    events = agent.stream(FACT, session="monday")
    assert agent.memory.journal.count() == 0
    next(events)
    assert agent.memory.journal.count() == 1


def test_ask_gives_what_stream_tells(agent: Agent) -> None:
    agent.ask(FACT, session="monday")
    reply = agent.ask(QUESTION, session="tuesday")
    assert (reply.text, [item.text for item in reply.recollections]) == ("It is Biscuit.", [FACT])
    assert reply.usage.recollection_tokens > 0
    assert 0 <= reply.seconds.recall <= reply.seconds.total


def test_forgotten_turns_are_not_recalled(agent: Agent) -> None:
    agent.ask(FACT, session="monday")
    assert agent.forget(1).turns == (1,)
    assert agent.recall(QUESTION) == []


def test_the_settings_hold_for_every_session(open_memory: OpenMemory) -> None:
    model = ScriptedModel(["Nice.", "No idea."])
    with Agent(open_memory(), model, Settings(limit=0, system="Be kind.")) as agent:
        agent.ask(FACT, session="monday")
        assert agent.ask(QUESTION, session="tuesday").recollections == ()
    assert {prompt[0].content for prompt in model.prompts} == {"Be kind."}


def test_an_agent_is_opened_by_names_and_closed_by_leaving_it(home: Home) -> None:
    with Agent.open(user="ana", backend="in_memory+none", model=ScriptedModel(["Nice."]), home=home) as agent:
        agent.remember(FACT, session="monday")
        assert [item.text for item in agent.recall(QUESTION)] == [FACT]
    with pytest.raises(StorageError, match="is closed"):
        agent.recall(QUESTION)


class TinyChatModel(EchoModel):
    """A chat model in this process whose name is nobody's in the catalogue, and no file."""

    name = "one of my own"
    digest = tiny_model().digest
    model = tiny_model().model
    tokenizer = tiny_model().tokenizer


def test_a_memory_works_inside_a_model_that_is_given_as_an_object(home: Home, tmp_path: Path) -> None:
    home = replace(home, models=tmp_path / "models")
    with Agent.open(home=home, backend="rope_map", model=TinyChatModel()) as agent:
        agent.remember(FACT, session="monday")
        assert agent.memory.stats().items == 1
