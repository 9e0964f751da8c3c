"""One session of an isolated scenario: reads it from standard input, writes the results to standard output."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path

from memagent.agent.evaluation.scenarios.player import Options, Player
from memagent.agent.evaluation.scenarios.runner import PROBES, STEPS
from memagent.agent.home import Home
from memagent.agent.models.models import Models
from memagent.backends.errors import MemagentError


def main() -> None:
    """Play one session; an error of memagent is part of the output."""
    os.umask(0o077)
    order = json.load(sys.stdin)
    home = Home(Path(order["root"]), Path(order["models"]))
    player = Player(
        order["backend"], Options(**order["options"]), Models.shared(home.models, order["embedder"])
    )
    steps = STEPS.validate_python(order["steps"])
    try:
        clock, probes = player.play(home, order["user"], datetime.fromisoformat(order["clock"]), steps)
    except MemagentError as error:
        answer = {"error": str(error)}
    else:
        answer = {"clock": clock.isoformat(), "probes": PROBES.dump_python(probes, mode="json")}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
