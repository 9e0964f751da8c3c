"""A chain of SHA-256 digests over a journal's turns and forgettings, which survives forgetting.

A turn's *leaf* is the digest of its *salt*, 32 random bytes kept beside the turn, and of everything the turn
holds. Its *head* is the digest of the head before it, the turn's seq, its id and its leaf: one head vouches for
all turns up to it. Forgetting deletes the text and the salt and keeps the leaf, so the chain can still be proved,
and without the salt nobody can confirm a guess at the forgotten text. Forgettings have a chain of their own.

What a turn holds grew with the schema. Version 3 added ``recalled`` and ``attachments``: the leaf of a turn covers them
where the turn has them. A turn without both has the leaf that version 2 gave it, so older chains stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime

from memagent.agent.journal.records import Forgetting
from memagent.backends.records import Turn

GENESIS = hashlib.sha256(b"memagent journal").digest()
"""The head of a journal without turns."""

SALT_BYTES = 32


def new_salt() -> bytes:
    """Return 32 bytes that nobody can guess."""
    return secrets.token_bytes(SALT_BYTES)


def turn_leaf(salt: bytes, turn: Turn) -> bytes:
    """Return the digest of a turn's salt and of all its fields but its seq, which ``turn_head`` covers.

    An attachment counts by its media type, size and SHA-256.
    """
    fields: list[object] = [
        turn.id,
        turn.session,
        turn.role,
        turn.speaker,
        turn.text,
        timestamp(turn.created_at),
        list(turn.in_view),
        turn.derived,
    ]
    if turn.recalled or turn.attachments:
        files = [[file.media_type, file.size, file.sha256] for file in turn.attachments]
        fields += [list(turn.recalled), files]
    return hashlib.sha256(b"turn\0" + salt + json.dumps(fields).encode()).digest()


def turn_head(before: bytes, seq: int, turn_id: str, leaf: bytes) -> bytes:
    """Return the head of the chain after a turn, given the head before it."""
    return hashlib.sha256(b"chain\0" + before + json.dumps([seq, turn_id]).encode() + leaf).digest()


def forgetting_head(before: bytes, forgetting: Forgetting) -> bytes:
    """Return the head of the forgettings' chain after a forgetting, given the head before it."""
    fields = [forgetting.number, forgetting.seq, forgetting.turn_id, timestamp(forgetting.forgotten_at)]
    return hashlib.sha256(b"forgetting\0" + before + json.dumps(fields).encode()).digest()


def timestamp(when: datetime) -> str:
    """Return a time as the journal writes it: ISO 8601 in UTC with microseconds."""
    return when.astimezone(UTC).isoformat(timespec="microseconds")
