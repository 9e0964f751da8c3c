"""Facts and turns for a memory to read, and the bytes that it leaves on disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from memagent.backends.records import Turn

FACTS = [
    "My dog is called Biscuit.",
    "I live in Porto, near the river.",
    "My sister works as a nurse.",
    "I am allergic to peanuts.",
    "I sold two bicycles in Köln.",
]


def make_turn(
    seq: int, text: str, role: str = "user", session: str = "monday", speaker: str | None = None
) -> Turn:
    """Return a turn one minute after the turn with the seq before it."""
    when = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(minutes=seq)
    return Turn(seq, f"{seq:032x}", session, role, text, when, speaker)


def bytes_below(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
