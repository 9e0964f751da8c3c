"""Results as text for people and as fields for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from memagent.agent.evaluation.scenarios.results import ProbeResult, ScenarioResult
from memagent.agent.fields import recollection_fields

_MAX_LINE_CHARS = 160


def explain(result: ScenarioResult) -> str:
    """Return why a scenario failed: question, recollections with their reasons, reply and failures of each failed probe."""
    return "\n".join(_lines(result))


def fields(result: ScenarioResult) -> dict[str, Any]:
    """Return a result's fields by their stable names."""
    return {
        "name": result.name,
        "file": result.file,
        "line": result.line,
        "backend": result.backend,
        "passed": result.passed,
        "error": result.error,
        "seconds": round(result.seconds, 3),
        "probes": [_probe_fields(probe) for probe in result.probes],
    }


def _probe_fields(probe: ProbeResult) -> dict[str, Any]:
    return {
        "user": probe.user,
        "question": probe.question,
        "reply": probe.reply,
        "recollections": [recollection_fields(item) for item in probe.recollections],
        "passed": probe.passed,
        "judged": probe.judged,
        "needs_memory": probe.needs_memory,
        "failures": list(probe.failures),
        "seconds": {
            "recall": round(probe.recall_seconds, 4),
            "reply": None if probe.reply_seconds is None else round(probe.reply_seconds, 3),
        },
    }


def _lines(result: ScenarioResult) -> Iterator[str]:
    yield f"{result.name} [{result.backend}]  {result.file}:{result.line}"
    for probe in result.probes:
        if probe.passed:
            continue
        yield f"  asked     {_shorten(probe.question)}"
        if not probe.recollections:
            yield "  recalled  nothing"
        for rank, item in enumerate(probe.recollections, start=1):
            label = "recalled" if rank == 1 else ""
            yield f"  {label:8}  {rank}. {item.score:.2f}  {_shorten(item.text)}"
            yield f"            {item.created_at:%Y-%m-%d}, session {item.session}. {item.why}"
        if probe.reply is not None:
            yield f"  answered  {_shorten(probe.reply)}"
        for number, failure in enumerate(probe.failures):
            yield f"  {'wrong' if number == 0 else '':8}  {failure}"
    if result.error is not None:
        yield f"  stopped   {result.error}"


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_LINE_CHARS else line[: _MAX_LINE_CHARS - 3] + "..."
