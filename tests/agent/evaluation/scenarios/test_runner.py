"""Playing whole scenarios: sessions, users, restarts, errors, and processes of their own."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from memagent.agent.evaluation.scenarios import Options, ScenarioResult, run
from memagent.agent.evaluation.scenarios.runner import by_session
from memagent.agent.home import Home
from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.models.fakes import EchoModel
from memagent.agent.models.models import Models
from memagent.backends import registry
from memagent.backends.errors import StorageError
from memagent.backends.in_memory import InMemory
from memagent.backends.protocol import MemoryBackend
from tests.agent.evaluation.scenarios import only_scenario

STORY = """
    name: two users and a move
    start: 2026-01-05T09:00:00+01:00
    steps:
      - session: january
        say: [I live in Lisbon., My dog is called Biscuit.]
      - user: ben
        session: january
        say: My dog is called Rex.
      - ask: What is my dog called?
        expect:
          recalled: {contains: Biscuit, within: 1, session: january, on: 2026-01-05}
          not_recalled: Rex
          reply: {contains: Biscuit, lacks: Rex}
      - ask: What is my dog called?
        user: ben
        expect: {recalled: Rex, not_recalled: Biscuit, at_most: 1}
      - wait: 3 weeks
      - session: february
        say: {user: I live in Porto., speaker: Ana}
      - ask: Where do I live?
        expect: {order: [Porto, Lisbon]}
      - forget: Lisbon
      - ask: Where do I live?
        session: february
        expect: {not_recalled: Lisbon, recalled: {contains: Porto, on: 2026-01-28}, reply: Rome}
"""
QUIET = "\n  - ask: What is my dog called?\n    expect: {not_recalled: Rex}"


@pytest.fixture
def folder(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    return made


def models(home: Home) -> Models:
    return Models(home.models, HashingEmbedder, lambda name: EchoModel())


def timeless(result: ScenarioResult) -> ScenarioResult:
    """A result without what no two runs share."""
    probes = [
        replace(probe, recall_seconds=0, reply_seconds=None if probe.reply_seconds is None else 0)
        for probe in result.probes
    ]
    return replace(result, seconds=0, probes=tuple(probes))


def test_a_scenario_is_played_to_its_end(home: Home, folder: Path, tmp_path: Path) -> None:
    located = only_scenario(tmp_path, STORY)
    result = run(located, "in_memory", Options(), models(home))
    assert (result.name, result.file, result.line) == (located.scenario.name, str(located.file), 1)
    assert (result.backend, result.error) == ("in_memory", None)
    assert [probe.user for probe in result.probes] == ["ana", "ben", "ana", "ana"]
    assert [probe.failures for probe in result.probes] == [(), (), (), ("the reply lacks 'Rome'",)]
    assert not result.passed
    assert result.seconds > 0


def test_isolated_comes_out_the_same(home: Home, folder: Path, tmp_path: Path) -> None:
    located = only_scenario(tmp_path, STORY)
    options = Options("echo", "text", {"threshold": "0.2"}, seed=5)
    here = run(located, "in_memory", options, models(home))
    there = run(located, "in_memory", options, models(home), isolated=True)
    assert timeless(there) == timeless(here)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("isolated", [False, True])
def test_an_error_in_a_step_is_the_result_and_what_was_probed_before_stays(
    home: Home, folder: Path, tmp_path: Path, isolated: bool
) -> None:
    text = (
        "name: a\nsteps:\n  - session: s\n    say: hello\n    user: eva"
        + QUIET
        + "\n  - forget: nosuch"
        + QUIET
    )
    result = run(only_scenario(tmp_path, text), "in_memory", Options(), models(home), isolated=isolated)
    assert result.error == "No turn of 'ana' holds 'nosuch': there was nothing to forget."
    assert len(result.probes) == 1
    assert result.probes[0].passed
    assert not result.passed
    assert list(folder.iterdir()) == []


def test_a_process_that_dies_is_an_error(
    home: Home, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\ncat >/dev/null\necho first >&2\necho no memory left >&2\nexit 7\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    located = only_scenario(tmp_path, "name: a\nsteps:" + QUIET)
    result = run(located, "in_memory", Options(), models(home), isolated=True)
    assert result.error == "A session's process ended with exit code 7: no memory left"


def test_modules_in_the_current_folder_are_not_mistaken_for_libraries(
    home: Home, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('mistaken')\n", encoding="utf-8")
    located = only_scenario(tmp_path, "name: a\nsteps:" + QUIET)
    monkeypatch.chdir(tmp_path)
    assert run(located, "in_memory", Options(), models(home), isolated=True).error is None


def test_a_backend_that_does_not_exist_is_an_error(home: Home, folder: Path, tmp_path: Path) -> None:
    result = run(only_scenario(tmp_path, "name: a\nsteps:" + QUIET), "nosuch", Options(), models(home))
    assert result.error is not None
    assert "nosuch" in result.error


def test_a_scenario_has_a_home_of_its_own_that_is_gone_afterwards(
    home: Home, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during: list[list[Path]] = []

    class Noting(InMemory):
        def close(self) -> None:
            during.append(list(folder.iterdir()))

    def get(name: str) -> type[MemoryBackend]:
        return Noting

    monkeypatch.setattr(registry, "get", get)
    run(only_scenario(tmp_path, "name: a\nsteps:" + QUIET), "in_memory", Options(), models(home))
    assert [len(inside) for inside in during] == [1]
    assert list(folder.iterdir()) == []
    assert not home.root.exists()


def test_without_a_temporary_folder_nothing_is_played(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match="set TMPDIR"):
        run(only_scenario(tmp_path, STORY), "in_memory", Options(model="echo"), models(home))


def test_two_runs_do_not_see_each_other(home: Home, folder: Path, tmp_path: Path) -> None:
    located = only_scenario(
        tmp_path,
        """
        name: a
        steps:
          - session: s
            say: My dog is called Biscuit.
          - ask: What is my dog called?
            expect: {at_most: 1, recalled: Biscuit}
        """,
    )
    assert [run(located, "in_memory", Options(), models(home)).passed for _ in range(2)] == [True, True]


def test_memory_is_opened_anew_for_each_session(
    home: Home, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Noting(InMemory):
        def recall(self, query: str, *, limit: int = 5) -> list[object]:  # type: ignore[override]
            events.append("asked")
            return list(super().recall(query, limit=limit))

        def close(self) -> None:
            events.append("closed")

    def get(name: str) -> type[MemoryBackend]:
        return Noting

    monkeypatch.setattr(registry, "get", get)
    located = only_scenario(
        tmp_path,
        """
        name: a
        steps:
          - session: s
            say: My dog is called Biscuit.
          - ask: What is my dog called?
            session: s
            expect: {recalled: Biscuit}
          - ask: What is my dog called?
            expect: {recalled: Biscuit}
        """,
    )
    assert run(located, "in_memory", Options(), models(home)).passed
    assert events == ["asked", "closed", "asked", "closed"]


def test_the_clock_goes_on_from_session_to_session(home: Home, folder: Path, tmp_path: Path) -> None:
    located = only_scenario(
        tmp_path,
        """
        name: a
        steps:
          - {session: a, say: fact one}
          - wait: 2 days
          - wait: 12 hours
          - {session: b, say: fact two, user: ben}
          - {session: c, say: fact three}
          - ask: fact
            expect: {recalled: three}
          - ask: fact
            user: ben
            expect: {recalled: two}
        """,
    )
    result = run(located, "in_memory", Options(), models(home))
    start = located.scenario.start
    days = [
        [(item.created_at - start) / timedelta(days=1) for item in p.recollections] for p in result.probes
    ]
    assert days == [[4.5, 0], [3.5]]


def test_sessions_are_cut_where_another_or_another_user_begins(tmp_path: Path) -> None:
    located = only_scenario(
        tmp_path,
        """
        name: a
        steps:
          - wait: 1 day
          - {session: a, say: 1}
          - wait: 2 days
          - {session: a, say: 2, user: ana}
          - {session: a, ask: 3, expect: {nothing: true}}
          - {session: a, say: 4, user: ben}
          - {session: b, say: 5, user: ben}
          - {ask: 6, user: ben, expect: {nothing: true}}
          - {ask: 7, user: ben, expect: {nothing: true}}
          - do: rebuild
          - distractors: {count: 1}
          - wait: 3 days
        """,
    )
    parts = list(by_session(located.scenario))
    assert [len(part) for part in parts] == [5, 1, 1, 1, 1, 1, 2]
    assert [step for part in parts for step in part] == list(located.scenario.steps)


def test_rag_plays_a_scenario_too(home: Home, folder: Path, tmp_path: Path) -> None:
    located = only_scenario(
        tmp_path,
        """
        name: a
        steps:
          - {session: s, say: My dog is called Biscuit.}
          - distractors: {count: 20, sessions: 2}
          - ask: What is my dog called?
            expect: {recalled: {contains: Biscuit, within: 1}}
        """,
    )
    result = run(located, "rag", Options(settings={"abstain": "false"}), models(home))
    assert (result.error, [probe.failures for probe in result.probes]) == (None, [()])
    forgetful = run(located, "none", Options(), models(home))
    assert [probe.failures for probe in forgetful.probes] == [("not recalled: 'Biscuit'",)]
    assert list(folder.iterdir()) == []
