"""Memory as context: decoded chunks as keys and values before the prompt, in the attention of every layer of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

from memagent.backends.protocol import LocalModel
from memagent.backends.shared.attention.chunks import Piece, Writer
from memagent.backends.shared.attention.encoder import Reader, Row
from memagent.backends.shared.attention.injection import Attended
from memagent.backends.titans.chunks import Chunk

# The best of ten lines on twelve facts: under some of the others a small model answers as if it knew nothing.
_OPENING = "Remember what the user said about themselves:\n"


def encode_chunks(local: LocalModel, scored_chunks: Sequence[tuple[Chunk, float]]) -> Attended:
    """Encode chunks with a model, so that it attends to them as if they stood before its prompt.

    Chunks stand in the order of their turns, and each is read after those before it, so that the model can tell similar
    chunks apart.

    Args:
        local: The model that is to attend to them.
        scored_chunks: At least one chunk, each with its score above 0; a lower score weakens a chunk in the attention.

    Raises:
        SettingError: The model's kind of attention is not supported.
    """
    reader, writer = Reader(local), Writer(local.tokenizer, _OPENING)
    best = max(score for _, score in scored_chunks)
    pieces: list[Piece] = []
    priors: list[float] = []
    for chunk, score in sorted(scored_chunks, key=lambda scored: scored[0].turn.seq):
        parts = writer.cut(replace(chunk.turn, text=chunk.text))
        pieces += parts
        priors += [log(score / best)] * len(parts)
    rows = [Row(writer.before(pieces[:place]), piece.ids) for place, piece in enumerate(pieces)]
    return Attended(
        list(reader.read(rows)),
        reader.theta,
        local.model.device,
        local.model.dtype,
        placement="consecutive",
        offset=0,
        priors=priors,
    )
