"""Things as fields for scripts, by names that stay."""

from __future__ import annotations

from typing import Any

from memagent.backends.protocol import Recollection


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
    }
