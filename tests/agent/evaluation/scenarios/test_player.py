"""Playing one session, and probing a conversation: what is told, when, and that asking leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from memagent.agent.engine.agent import collect
from memagent.agent.engine.conversation import Conversation
from memagent.agent.engine.events import Recalled, Token, TurnEnded
from memagent.agent.evaluation.scenarios import Options, ProbeResult
from memagent.agent.evaluation.scenarios.player import Player
from memagent.agent.evaluation.scenarios.schema import Step
from memagent.agent.home import Home
from memagent.agent.memory import open_journal
from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.models.fakes import EchoModel, ScriptedModel
from memagent.agent.models.models import Models
from memagent.backends import registry
from memagent.backends.errors import InputError, NotFoundError, SettingError
from memagent.backends.in_memory import InMemory
from memagent.backends.protocol import MemoryBackend
from memagent.backends.records import ConsolidationReport
from tests.conftest import OpenMemory

FACT, QUESTION = "My dog is called Biscuit.", "What is my dog called?"
START = datetime(2026, 1, 5, 9, tzinfo=UTC)
STEPS: TypeAdapter[list[Step]] = TypeAdapter(list[Step])


def no_model(name: str) -> EchoModel:
    raise AssertionError(f"the model {name} was loaded")


def play(
    home: Home, *steps: dict[str, Any], options: Options | None = None, models: Models | None = None
) -> tuple[datetime, list[ProbeResult]]:
    models = models or Models(home.models, HashingEmbedder, lambda name: EchoModel())
    player = Player("in_memory", options or Options(), models)
    return player.play(home, "ana", START, STEPS.validate_python(steps))


def say(*said: object, session: str = "s", **other: str) -> dict[str, Any]:
    return {"session": session, "say": list(said)} | other


def ask(question: str = QUESTION, **expect: object) -> dict[str, Any]:
    return {"ask": question, "expect": expect or {"recalled": "Biscuit"}}


def told(home: Home, user: str = "ana") -> list[tuple[str, str, str, datetime]]:
    with open_journal(home, user) as journal:
        return [(turn.session, turn.role, turn.text, turn.created_at) for turn in journal.turns()]


# telling and the clock


def test_turns_are_told_as_they_stand_a_minute_apart(home: Home) -> None:
    clock, probes = play(home, say("one", {"assistant": "two"}, {"user": "three", "speaker": "Eva"}))
    assert told(home) == [
        ("s", "user", "one", START),
        ("s", "assistant", "two", START + timedelta(minutes=1)),
        ("s", "user", "three", START + timedelta(minutes=2)),
    ]
    with open_journal(home, "ana") as journal:
        assert [turn.speaker for turn in journal.turns()] == [None, None, "Eva"]
    assert (clock, probes) == (START + timedelta(days=1), [])


def test_waiting_moves_the_clock_and_telling_moves_it_a_day(home: Home) -> None:
    clock, _ = play(home, say("one"), say("two"), {"wait": "3 weeks"}, say("three"), ask(nothing=True))
    assert [when - START for *_, when in told(home)] == [
        timedelta(0),
        timedelta(days=1),
        timedelta(days=23),
    ]
    assert clock == START + timedelta(days=24)


def test_a_time_of_its_own_wins_over_the_clock(home: Home) -> None:
    play(home, say("one", {"user": "two", "at": "2020-02-02T02:02"}, "three"), say("four"))
    assert [when for *_, when in told(home)] == [
        START,
        datetime(2020, 2, 2, 2, 2, tzinfo=UTC),
        START + timedelta(minutes=2),
        START + timedelta(days=1),
    ]


def test_distractors_are_spread_over_sessions_a_day_apart(home: Home) -> None:
    clock, _ = play(home, {"distractors": {"count": 7, "seed": 3, "sessions": 3}})
    found = told(home)
    assert [session for session, *_ in found] == ["distractors 3.1"] * 3 + ["distractors 3.2"] * 2 + [
        "distractors 3.3"
    ] * 2
    assert len({text for _, _, text, _ in found}) == 7
    assert sorted({when - START for *_, when in found}) == [timedelta(days=day) for day in range(3)]
    assert clock == START + timedelta(days=3)


def test_more_sessions_than_distractors_leave_some_empty(home: Home) -> None:
    clock, _ = play(home, {"distractors": {"count": 1, "sessions": 3}})
    assert len(told(home)) == 1
    assert clock == START + timedelta(days=3)


def test_waiting_beyond_the_calendar_is_an_error_for_people(home: Home) -> None:
    with pytest.raises(InputError):
        play(home, {"wait": "9000 years"}, ask())


# housekeeping


def test_what_was_forgotten_is_not_recalled(home: Home) -> None:
    _, probes = play(
        home, say(FACT, "My dog is old."), ask(), {"forget": "biscuit"}, ask(not_recalled="Biscuit")
    )
    assert [probe.passed for probe in probes] == [True, True]
    assert [text for _, _, text, _ in told(home)] == ["My dog is old."]


def test_a_whole_session_can_be_forgotten(home: Home) -> None:
    play(home, say(FACT, "two"), say("three", session="t"), {"forget": {"session": "s"}})
    assert [text for _, _, text, _ in told(home)] == ["three"]


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ("Porto", "No turn of 'ana' holds 'Porto': there was nothing to forget."),
        ({"session": "t"}, "No turn of 'ana' is of the session 't': there was nothing to forget."),
    ],
)
def test_nothing_to_forget_is_an_error(home: Home, forget: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        play(home, say(FACT), {"forget": forget})
    assert str(caught.value) == message


def test_memory_is_consolidated_and_rebuilt_where_the_scenario_says(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Noting(InMemory):
        def consolidate(self) -> ConsolidationReport:
            done.append("consolidated")
            return super().consolidate()

        def close(self) -> None:
            done.append("closed")

    def get(name: str) -> type[MemoryBackend]:
        return Noting

    monkeypatch.setattr(registry, "get", get)
    _, probes = play(home, say(FACT), {"do": "consolidate"}, {"do": "rebuild"}, ask())
    assert probes[0].passed
    assert done == ["consolidated", "closed", "closed"]


# asking


def test_a_probe_tells_what_was_recalled_and_answered(home: Home) -> None:
    wanted = ask(recalled={"contains": "Biscuit", "within": 1}, reply="Biscuit")
    _, (probe,) = play(home, say(FACT), wanted)
    assert (probe.user, probe.question, probe.failures) == ("ana", QUESTION, ())
    assert [item.text for item in probe.recollections] == [FACT]
    assert probe.reply is not None
    assert FACT in probe.reply  # the echo model repeats its prompt
    assert probe.reply.endswith(QUESTION)
    assert probe.recall_seconds >= 0
    assert probe.reply_seconds is not None
    assert (probe.needs_memory, probe.judged, probe.passed) == (True, True, True)


def test_failures_of_recall_and_reply_stand_together(home: Home) -> None:
    _, (probe,) = play(home, say(FACT), ask(recalled="Rex", reply={"lacks": "Biscuit"}))
    assert probe.failures == ("not recalled: 'Rex'", "the reply has 'Biscuit', but must not")
    assert not probe.passed


def test_the_limit_is_the_most_that_is_recalled(home: Home) -> None:
    facts = [f"My dog did trick {number}." for number in range(8)]
    _, probes = play(
        home, say(*facts), ask(at_most=5), ask(at_most=2) | {"limit": 2}, ask(at_most=9) | {"limit": 9}
    )
    assert [len(probe.recollections) for probe in probes] == [5, 2, 8]


def test_no_model_is_loaded_unless_a_reply_is_expected(home: Home) -> None:
    models = Models(home.models, HashingEmbedder, no_model)
    _, (probe,) = play(home, say(FACT), ask(recalled="Biscuit", recall_seconds=60), models=models)
    assert (probe.reply, probe.reply_seconds, probe.judged) == (None, None, True)


def test_recall_only_asks_no_model_and_marks_what_it_did_not_judge(home: Home) -> None:
    models = Models(home.models, HashingEmbedder, no_model)
    _, probes = play(
        home,
        say(FACT),
        ask(reply="Rex"),
        ask(reply="Rex", recalled="Biscuit"),
        ask(reply="Rex", recalled="Rex"),
        options=Options(recall_only=True),
        models=models,
    )
    assert [(probe.reply, probe.judged, probe.passed) for probe in probes] == [
        (None, False, True),
        (None, True, True),
        (None, True, False),
    ]


def test_a_probe_leaves_no_trace_in_the_journal(home: Home) -> None:
    steps = [say(FACT), ask(reply="Biscuit"), ask(reply="dog") | {"session": "s"}, ask()]
    _, probes = play(home, *steps)
    assert all(probe.passed for probe in probes)
    assert told(home) == [("s", "user", FACT, START)]
    with open_journal(home, "ana") as journal:
        assert [session.name for session in journal.sessions()] == ["s"]


def test_a_probe_in_a_session_sees_its_recent_turns(home: Home) -> None:
    seen: list[ScriptedModel] = []

    def chat(name: str) -> ScriptedModel:
        seen.append(ScriptedModel(["Biscuit."]))
        return seen[-1]

    models = Models(home.models, HashingEmbedder, chat)
    steps = [say("Hello there."), ask(reply="Biscuit") | {"session": "s"}, ask(reply="Biscuit")]
    play(home, *steps, models=models)
    prompts = [" ".join(message.content for message in model.prompts[0]) for model in seen]
    assert ["Hello there." in prompt for prompt in prompts] == [True, False]


def test_another_user_is_another_memory(home: Home) -> None:
    play(home, say(FACT, user="ben"))
    assert told(home, "ben") == [("s", "user", FACT, START)]
    assert not home.journal_file("ana").exists()


def test_a_backend_or_setting_that_does_not_exist_is_an_error(home: Home) -> None:
    with pytest.raises(NotFoundError):
        play(home, ask(), options=Options(settings={"nosuch": "1"}))
    with pytest.raises(SettingError):
        play(home, ask(reply="x"), options=Options(channel="model"))


def test_the_models_are_loaded_once_and_on_first_use(home: Home, tmp_path: Path) -> None:
    models = Models.shared(tmp_path)
    assert models.embedder() is models.embedder()
    assert models.embedder().name == HashingEmbedder.name
    assert models.chat("echo") is models.chat("echo")


# Conversation.probe


def journalled(conversation: Conversation) -> Sequence[object]:
    return list(conversation.memory.journal.turns())


def test_probing_answers_as_sending_would_and_stores_nothing(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    conversation = Conversation(memory, EchoModel(), "tuesday")
    before = journalled(conversation)
    events = list(conversation.probe(QUESTION))
    assert isinstance(events[0], Recalled)
    assert [item.text for item in events[0].recollections] == [FACT]
    assert {type(event) for event in events[1:-1]} == {Token}
    assert isinstance(events[-1], TurnEnded)
    assert journalled(conversation) == before
    again = collect(list(conversation.probe(QUESTION)))
    assert collect(list(conversation.send(QUESTION))).text == events[-1].reply == again.text
    assert len(journalled(conversation)) == len(before) + 2


def test_an_abandoned_or_stopped_probe_stores_nothing(open_memory: OpenMemory) -> None:
    conversation = Conversation(open_memory(), EchoModel(), "tuesday")
    events = conversation.probe(QUESTION)
    next(events)
    next(events)
    conversation.stop()
    (ended,) = events
    assert isinstance(ended, TurnEnded)
    assert ended.stopped
    assert ended.reply == "What"
    unfinished = conversation.probe(QUESTION)
    next(unfinished)
    del unfinished
    assert journalled(conversation) == []


@pytest.mark.parametrize("text", ["", "  ", "with NUL \0"])
def test_a_probe_of_nothing_is_refused(open_memory: OpenMemory, text: str) -> None:
    conversation = Conversation(open_memory(), EchoModel(), "tuesday")
    with pytest.raises(InputError):
        list(conversation.probe(text))
