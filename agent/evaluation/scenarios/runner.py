"""Playing a scenario on a backend, in a temporary home.

A scenario is played session by session. Each session opens the memory again from the disk; isolated,
each does so in a process of its own, so that only stored state can pass from one to the next.
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

from memagent.agent.evaluation.scenarios.player import Options, Player
from memagent.agent.evaluation.scenarios.reader import LocatedScenario
from memagent.agent.evaluation.scenarios.results import ProbeResult, ScenarioResult
from memagent.agent.evaluation.scenarios.schema import Scenario, Step, WaitStep
from memagent.agent.home import Home
from memagent.agent.models.models import Models
from memagent.backends.errors import MemagentError, StorageError
from memagent.backends.protocol import Progress, silent

STEPS: TypeAdapter[list[Step]] = TypeAdapter(list[Step])
PROBES: TypeAdapter[list[ProbeResult]] = TypeAdapter(list[ProbeResult])


def run(
    located: LocatedScenario,
    backend: str,
    options: Options,
    models: Models,
    *,
    isolated: bool = False,
    progress: Progress = silent,
) -> ScenarioResult:
    """Play a scenario on a backend and judge its probes.

    Args:
        located: the scenario.
        backend: name of the memory.
        options: how it is played.
        models: the shared models.
        isolated: each session in a process of its own; models are then loaded in each.
        progress: wraps long loops.

    Returns:
        The result; an error while playing is part of it, not raised.

    Raises:
        StorageError: no temporary folder can be made.
    """
    scenario = located.scenario
    play = _in_process if isolated else Player.play
    player = Player(backend, options, models, progress)
    start = time.monotonic()
    clock = scenario.start
    probes: list[ProbeResult] = []
    error = None
    with _temporary_folder() as folder:
        home = Home(Path(folder), models.folder)
        for steps in by_session(scenario):
            try:
                clock, session_probes = play(player, home, scenario.user, clock, steps)
            except MemagentError as failure:
                error = str(failure)
                break
            probes += session_probes
    seconds = time.monotonic() - start
    return ScenarioResult(
        scenario.name, str(located.file), located.line, backend, tuple(probes), seconds, error
    )


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Create the folder of a scenario's home; StorageError if there is no room for one."""
    try:
        return tempfile.TemporaryDirectory(prefix="memagent-scenario-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"A scenario needs a temporary folder, and none can be made ({error.strerror or error}). "
            "Free some space, or set TMPDIR to a folder that is writable."
        ) from error


def by_session(scenario: Scenario) -> Iterator[list[Step]]:
    """Yield the steps of each session: a new one begins where the session or the user changes; waiting belongs to either."""
    steps: list[Step] = []
    current: object = None
    for step in scenario.steps:
        if not isinstance(step, WaitStep):
            key = (step.user or scenario.user, getattr(step, "session", None) or object())
            if current not in (None, key):
                yield steps
                steps = []
            current = key
        steps.append(step)
    yield steps


def _in_process(
    player: Player, home: Home, user: str, clock: datetime, steps: Sequence[Step]
) -> tuple[datetime, list[ProbeResult]]:
    """Do the same as ``Player.play`` in a new process.

    Raises:
        MemagentError: the process raised it, or died.
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
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise StorageError(f"A session's process ended with exit code {done.returncode}: {last}") from error
    if "error" in answer:
        raise MemagentError(answer["error"])
    return datetime.fromisoformat(answer["clock"]), PROBES.validate_python(answer["probes"])
