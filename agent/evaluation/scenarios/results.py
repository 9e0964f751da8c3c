"""What came of a scenario."""

from __future__ import annotations

from dataclasses import dataclass

from memagent.backends.records import Recollection


@dataclass(frozen=True)
class ProbeResult:
    """What came of one question.

    Attributes:
        recollections: what memory recalled, best first.
        reply: what the model answered; None if it was not asked.
        recall_seconds, reply_seconds: wall-clock time of the recall, and of the whole answer.
        failures: what was not as expected, a sentence each.
        needs_memory: whether an agent that remembers nothing must fail it.
        judged: False if nothing was: all its expectations are of the reply, and no model was asked.
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
        return not self.failures


@dataclass(frozen=True)
class ScenarioResult:
    """What came of one scenario on one backend; ``error`` says why it could not be played to its end."""

    name: str
    file: str
    line: int
    backend: str
    probes: tuple[ProbeResult, ...]
    seconds: float
    error: str | None = None

    @property
    def passed(self) -> bool:
        return self.error is None and all(probe.passed for probe in self.probes)
