"""Scripted multi-session recall tests: what an agent should remember, written down and checked."""

from memagent.agent.scenarios.player import Models, Options
from memagent.agent.scenarios.reader import Located, read, read_all, suite
from memagent.agent.scenarios.results import ProbeResult, ScenarioResult
from memagent.agent.scenarios.runner import run
from memagent.agent.scenarios.schema import Scenario

__all__ = [
    "Located",
    "Models",
    "Options",
    "ProbeResult",
    "Scenario",
    "ScenarioResult",
    "read",
    "read_all",
    "run",
    "suite",
]
