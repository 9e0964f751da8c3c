"""Write results as JSON for scripts. The field names are stable."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from memagent.backends.records import Recollection, Turn
from memagent.backends.shared.text import UNSAFE


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return a value as JSON text that is safe to print; see ``escape_json``."""
    return escape_json(json.dumps(value, ensure_ascii=False, indent=indent))


def escape_json(text: str) -> str:
    r"""Escape the unsafe characters (``shared.text.UNSAFE``) of a JSON text as ``\uXXXX``.

    JSON allows them inside strings only, so every occurrence can be escaped. The result parses to the same value.
    """
    return UNSAFE.sub(lambda character: f"\\u{ord(character[0]):04x}", text)


def shown_turn_fields(turn: Turn) -> dict[str, Any]:
    """Return what a list of turns shows of one, as a dictionary that JSON can represent."""
    return {
        "seq": turn.seq,
        "role": turn.role,
        "speaker": turn.speaker,
        "text": turn.text,
        "created_at": turn.created_at.isoformat(),
        "attachments": [asdict(attachment) for attachment in turn.attachments],
    }


def recollection_fields(item: Recollection) -> dict[str, Any]:
    """Return a recollection as a dictionary that JSON can represent."""
    return {
        "text": item.text,
        "score": round(item.score, 4),
        "seqs": list(item.seqs),
        "session": item.session,
        "role": item.role,
        "speaker": item.speaker,
        "created_at": item.created_at.isoformat(),
        "why": item.why,
        "regenerated": item.regenerated,
        "superseded_by": item.superseded_by,
        "superseded_at": item.superseded_at.isoformat() if item.superseded_at is not None else None,
    }
