"""Things as fields for scripts, by names that stay."""

from __future__ import annotations

import json
from typing import Any

from memagent.backends.records import Recollection
from memagent.backends.shared.text import UNSAFE


def json_text(value: object, *, indent: int | None = None) -> str:
    """Write a value as JSON that is safe to print: see ``escape_json``."""
    return escape_json(json.dumps(value, ensure_ascii=False, indent=indent))


def escape_json(text: str) -> str:
    """Write the unsafe characters (``backends.text.UNSAFE``) of a JSON text as ``\\uXXXX``; it parses to the same value.

    They stand inside strings only, so that they can be replaced wherever they are found.
    """
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def recollection_fields(item: Recollection) -> dict[str, Any]:
    """A recollection as JSON can hold it."""
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
