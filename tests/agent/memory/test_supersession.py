"""Recollections that a newer one makes untrue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from memagent.agent.memory.supersession import mark_superseded
from memagent.backends.records import Recollection

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
QUESTION = "Where do I work?"
ACME, GLOBEX = "I work at Acme Corp as an engineer.", "I left Acme Corp and started at Globex last week."


def said(seq: int, text: str, role: str = "user", speaker: str | None = None) -> Recollection:
    return Recollection(text, 0.5, (seq,), "s", role, BEGAN + timedelta(days=seq), "It fits.", speaker)


def test_the_older_fact_is_marked_and_stands_behind_the_newer() -> None:
    newer, older = mark_superseded([said(1, ACME), said(2, GLOBEX)], QUESTION)
    assert (newer.text, newer.superseded_by) == (GLOBEX, None)
    assert (older.text, older.superseded_by, older.superseded_at) == (ACME, 2, BEGAN + timedelta(days=2))


def test_an_order_that_is_right_stays() -> None:
    recollections = [said(2, GLOBEX), said(1, ACME), said(3, "Globex has a canteen.")]
    assert [item.seqs for item in mark_superseded(recollections, QUESTION)] == [(2,), (1,), (3,)]


@pytest.mark.parametrize(
    "recollections",
    [
        [said(1, "I prefer dark roast coffee."), said(2, "I take my coffee with oat milk.")],
        [said(2, ACME), said(1, GLOBEX)],
        [said(1, ACME), said(2, GLOBEX, role="assistant")],
        [said(1, ACME, speaker="Ana"), said(2, GLOBEX, speaker="Ben")],
        [said(1, ACME), said(2, "Did I leave Acme Corp and start at Globex last week?")],
        [said(1, ACME)],
        [],
    ],
)
def test_what_still_holds_is_returned_as_it_is(recollections: list[Recollection]) -> None:
    assert mark_superseded(recollections, QUESTION) == recollections


def test_nothing_is_lost() -> None:
    recollections = [
        said(seq, text) for seq, text in enumerate([ACME, GLOBEX, "I quit Globex.", ACME, "Tea."], 1)
    ]
    assert sorted(item.seqs for item in mark_superseded(recollections, QUESTION)) == [
        (seq,) for seq in range(1, 6)
    ]


def test_what_is_asked_for_by_its_code_is_not_superseded_by_what_lacks_the_code() -> None:
    errors = [
        said(1, "Error E4012 happens when the pump is dry."),
        said(2, "Error E4021 means that the valve is stuck."),
    ]
    assert mark_superseded(errors, "What is E4012?") == errors
    extension = [said(1, "My extension is 2204."), said(2, "My extension is 3391 now, the old one is dead.")]
    assert mark_superseded(extension, "What is my extension?")[-1].superseded_by == 2
