"""Results as text and as fields."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from memagent.agent.evaluation.scenarios import ProbeResult, ScenarioResult
from memagent.agent.evaluation.scenarios.report import explain, fields
from memagent.backends.records import Recollection

WHEN = datetime(2026, 1, 5, 9, tzinfo=UTC)
FOUND = (
    Recollection("I live in\nLisbon.", 0.987654, (1,), "january", "user", WHEN, "It is alike."),
    Recollection("x" * 500, 0.5, (2, 3), "february", "assistant", WHEN, "It is long.", speaker="Bot"),
)
PROBE = ProbeResult(
    user="ana",
    question="Where do I live now?",
    recollections=FOUND,
    reply="In Lisbon.",
    recall_seconds=0.0123456,
    reply_seconds=1.23456,
    failures=("not recalled: 'Porto'", "the reply lacks 'Porto'"),
    needs_memory=True,
    judged=True,
)
RESULT = ScenarioResult("a move", "moves.recall.yaml", 7, "rag", (PROBE,), 3.14159)


def test_a_failure_says_what_was_asked_recalled_and_why_and_answered() -> None:
    assert explain(RESULT).splitlines() == [
        "a move [rag]  moves.recall.yaml:7",
        "  asked     Where do I live now?",
        "  recalled  1. 0.99  I live in Lisbon.",
        "            2026-01-05, session january. It is alike.",
        f"            2. 0.50  {'x' * 157}...",
        "            2026-01-05, session february. It is long.",
        "  answered  In Lisbon.",
        "  wrong     not recalled: 'Porto'",
        "            the reply lacks 'Porto'",
    ]


def test_nothing_recalled_is_said_too_and_what_passed_is_not() -> None:
    silent = replace(PROBE, question="And then?", recollections=(), reply=None)
    passed = replace(PROBE, failures=())
    assert explain(replace(RESULT, probes=(passed, silent))).splitlines() == [
        "a move [rag]  moves.recall.yaml:7",
        "  asked     And then?",
        "  recalled  nothing",
        "  wrong     not recalled: 'Porto'",
        "            the reply lacks 'Porto'",
    ]


def test_an_error_says_where_it_stopped() -> None:
    stopped = replace(RESULT, probes=(), error="No turn holds 'x'.")
    assert explain(stopped).splitlines()[1:] == ["  stopped   No turn holds 'x'."]


def test_a_result_passes_if_all_probes_do_and_nothing_stopped_it() -> None:
    passed = replace(PROBE, failures=())
    assert not replace(RESULT, probes=(passed, PROBE)).passed
    assert replace(RESULT, probes=(passed, passed)).passed
    assert not replace(RESULT, probes=(passed,), error="broke").passed


def test_the_fields_of_a_result_go_by_names_that_stay() -> None:
    made = fields(RESULT)
    assert json.loads(json.dumps(made)) == made
    (probe,) = made.pop("probes")
    assert made == {
        "name": "a move",
        "file": "moves.recall.yaml",
        "line": 7,
        "backend": "rag",
        "passed": False,
        "error": None,
        "seconds": 3.142,
    }
    assert [item["text"] for item in probe.pop("recollections")] == [item.text for item in FOUND]
    assert probe == {
        "user": "ana",
        "question": "Where do I live now?",
        "reply": "In Lisbon.",
        "passed": False,
        "judged": True,
        "needs_memory": True,
        "failures": ["not recalled: 'Porto'", "the reply lacks 'Porto'"],
        "seconds": {"recall": 0.0123, "reply": 1.235},
    }


def test_where_no_model_was_asked_there_is_no_reply_and_no_time() -> None:
    quiet = fields(replace(RESULT, probes=(replace(PROBE, reply=None, reply_seconds=None),)))["probes"][0]
    assert (quiet["reply"], quiet["seconds"]["reply"]) == (None, None)
