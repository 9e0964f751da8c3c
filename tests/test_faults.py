"""The fault campaign in short: nothing acknowledged is lost, nothing forgotten comes back; and it would notice if it were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "faults.py"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks")

# What each of them breaks must be found.
NOTHING_IS_NOTED_AS_UNFINISHED = """
from memagent.agent.journal.writing import Transaction

assert hasattr(Transaction, "note_unfinished")
Transaction.note_unfinished = lambda *arguments: None
"""
A_TURN_IS_LOST_NOW_AND_THEN = """
from sqlalchemy import delete
from memagent.agent.journal.schema import turns
from memagent.agent.journal.writing import Transaction

def losing(self, new, moved):
    made = extend(self, new, moved)
    if made and made[-1].seq % 8 == 0:
        self.connection.execute(delete(turns).where(turns.c.seq == made[-1].seq))
    return made

extend, Transaction.extend = Transaction.extend, losing
"""


def campaign(*arguments: str, sabotage: str = "") -> dict[str, Any]:
    """Run a part of the campaign, after something was broken if wanted, and return its result."""
    script = f"import sys\nsys.path.insert(0, {str(CAMPAIGN.parent)!r})\n{sabotage}\nimport faults\nfaults.main()\n"
    done = subprocess.run(
        [sys.executable, "-c", script, "--output", "json", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == bool(result["faults"]), done.stderr
    return result


def test_nothing_is_lost_comes_back_leaks_or_crashes() -> None:
    result = campaign("short")
    assert result["faults"] == []
    assert result["kills"]["kills"] == 30
    assert result["stress"]["acknowledged"] > 8
    assert sum(result["mutations"]["outcomes"]["import"].values()) == 300


@pytest.mark.parametrize(
    ("sabotage", "arguments", "found"),
    [
        (
            NOTHING_IS_NOTED_AS_UNFINISHED,
            ("kills", "--operation", "forget", "--backend", "in_memory", "--kills", "30"),
            "of a forgotten turn",
        ),
        (A_TURN_IS_LOST_NOW_AND_THEN, ("stress", "--minutes", "0.2", "--processes", "8"), "is missing"),
    ],
    ids=["forgetting is not finished", "a turn is lost"],
)
def test_the_campaign_notices(sabotage: str, arguments: tuple[str, ...], found: str) -> None:
    faults = campaign(*arguments, sabotage=sabotage)["faults"]
    assert any(found in fault for fault in faults), faults[:5]
