"""Scripted multi-session recall tests: what an agent should remember, in YAML, played and judged."""

from memagent.agent.evaluation.scenarios.player import Options
from memagent.agent.evaluation.scenarios.reader import LocatedScenario, read, read_all, suite
from memagent.agent.evaluation.scenarios.results import ProbeResult, ScenarioResult
from memagent.agent.evaluation.scenarios.runner import run
from memagent.agent.evaluation.scenarios.schema import Scenario

__all__ = [
    "LocatedScenario",
    "Options",
    "ProbeResult",
    "Scenario",
    "ScenarioResult",
    "read",
    "read_all",
    "run",
    "suite",
]
