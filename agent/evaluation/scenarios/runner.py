"""Playing a scenario on a backend, in a home of its own that is gone afterwards.

A scenario is played session by session. Each opens the memory anew, from what is on disk; isolated,
each does so in a process of its own, so that nothing can pass from one to the next but what was stored.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter

from memagent.agent.evaluation.scenarios.player import Models, Options, Player
from memagent.agent.evaluation.scenarios.reader import Located
from memagent.agent.evaluation.scenarios.results import ProbeResult, ScenarioResult
from memagent.agent.evaluation.scenarios.schema import Scenario, Step, Wait
from memagent.agent.home import Home
from memagent.backends.errors import MemagentError, StorageError
from memagent.backends.protocol import Progress, silent

STEPS: TypeAdapter[list[Step]] = TypeAdapter(list[Step])
PROBES: TypeAdapter[list[ProbeResult]] = TypeAdapter(list[ProbeResult])


def run(
    located: Located,
    backend: str,
    options: Options,
    models: Models,
    *,
    isolated: bool = False,
    progress: Progress = silent,
) -> ScenarioResult:
    """Play a scenario on a backend and judge its probes.

    Args:
        isolated: each session in a process of its own; models are then loaded in each.

    An error while playing is part of the result, not raised.

    Raises:
        StorageError: no temporary folder can be made.
    """
    scenario = located.scenario
    play = _in_process if isolated else Player.play
    player = Player(backend, options, models, progress)
    began = time.monotonic()
    clock = scenario.start
    probes: list[ProbeResult] = []
    error = None
    with _temporary_folder() as folder:
        home = Home(Path(folder), models.folder)
        for steps in by_session(scenario):
            try:
                clock, more = play(player, home, scenario.user, clock, steps)
            except MemagentError as raised:
                error = str(raised)
                break
            probes += more
    seconds = time.monotonic() - began
    return ScenarioResult(
        scenario.name, str(located.file), located.line, backend, tuple(probes), seconds, error
    )


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="memagent-scenario-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"A scenario needs a temporary folder, and none can be made ({error.strerror or error}). "
            "Free some space, or set TMPDIR to a folder that is writable."
        ) from error


def by_session(scenario: Scenario) -> Iterator[list[Step]]:
    """Cut a scenario where another session, or another user's memory, begins; waiting belongs to either."""
    part: list[Step] = []
    current: object = None
    for step in scenario.steps:
        if not isinstance(step, Wait):
            key = (step.user or scenario.user, getattr(step, "session", None) or object())
            if current not in (None, key):
                yield part
                part = []
            current = key
        part.append(step)
    yield part


def _in_process(
    player: Player, home: Home, user: str, clock: datetime, steps: Sequence[Step]
) -> tuple[datetime, list[ProbeResult]]:
    """``Player.play`` in a new process.

    Raises:
        MemagentError: what the process raised, or that it died.
    """
    order = {
        "root": str(home.root),
        "models": str(home.models),
        "embedder": player.models.embedder().name,
        "backend": player.backend,
        "options": asdict(player.options),
        "user": user,
        "clock": clock.isoformat(),
        "steps": STEPS.dump_python(list(steps), mode="json", exclude_defaults=True),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "memagent.agent.evaluation.scenarios.worker"],
        input=json.dumps(order),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StorageError(f"A session's process ended with exit code {done.returncode}: {last}") from error
    if "error" in answer:
        raise MemagentError(answer["error"])
    return datetime.fromisoformat(answer["clock"]), PROBES.validate_python(answer["probes"])
