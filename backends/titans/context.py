"""Memory as context: what was recited stands before the prompt, in the attention of every layer of a local model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

from memagent.backends.protocol import LocalModel
from memagent.backends.shared.attention.chunks import Piece, Writer
from memagent.backends.shared.attention.encoder import Reader, Row
from memagent.backends.shared.attention.injection import Attended
from memagent.backends.titans.chunks import Span

# Chosen among ten: a small model answers from what it reads under this line, and under some others as if it knew nothing.
_OPENING = "Remember what the user said about themselves:\n"


def in_context(local: LocalModel, recited: Sequence[tuple[Span, float]]) -> Attended:
    """Read what was recited with a model, so that it can attend to it as if it had just been said.

    Args:
        recited: spans with their matches; the older stand further away, and the better matched weigh more.

    Raises:
        SettingError: the model's attention is of a kind not known here.
    """
    reader, writer = Reader(local), Writer(local.tokenizer, _OPENING)
    best = max(match for _, match in recited)
    pieces: list[Piece] = []
    priors: list[float] = []
    for span, match in sorted(recited, key=lambda one: one[0].turn.seq):
        parts = writer.cut(replace(span.turn, text=span.text))
        pieces += parts
        priors += [log(match / best)] * len(parts)
    # Each is read after those before it, so that the model tells apart what is alike.
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
