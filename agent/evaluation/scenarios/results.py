"""The results of a scenario and of its probes."""

from __future__ import annotations

from dataclasses import dataclass

from memagent.backends.records import Recollection


@dataclass(frozen=True)
class ProbeResult:
    """The result of one question.

    Attributes:
        recollections: what memory recalled, best first.
        reply: the model's answer; None if no model answered.
        recall_seconds, reply_seconds: wall-clock time of the recall, and of the whole answer.
        failures: which expectations do not hold, a sentence each.
        needs_memory: whether an agent without a memory must fail it.
        judged: False if all its expectations are for the reply and no model answered.
    """

    user: str
    question: str
    recollections: tuple[Recollection, ...]
    reply: str | None
    recall_seconds: float
    reply_seconds: float | None
    failures: tuple[str, ...]
    needs_memory: bool
    judged: bool

    @property
    def passed(self) -> bool:
        """Whether every expectation holds."""
        return not self.failures


@dataclass(frozen=True)
class ScenarioResult:
    """The result of one scenario on one backend; ``error`` says why it could not be played to its end."""

    name: str
    file: str
    line: int
    backend: str
    probes: tuple[ProbeResult, ...]
    seconds: float
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the scenario was played to its end and every probe passed."""
        return self.error is None and all(probe.passed for probe in self.probes)
