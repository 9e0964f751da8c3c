"""Memory as context: what was recited stands before the prompt, in the attention of every layer of a local model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

from memagent.backends.attention.attended import Attended
from memagent.backends.attention.pieces import Writer
from memagent.backends.attention.reader import KeysAndValues, Reader, Row
from memagent.backends.protocol import LocalModel
from memagent.backends.titans.spans import Span


def in_context(local: LocalModel, recited: Sequence[tuple[Span, float]]) -> Attended:
    """Read what was recited with a model, so that it can attend to it as if it had just been said.

    Args:
        recited: spans with their matches; the older stand further away, and the better matched weigh more.

    Raises:
        SettingError: the model's attention is of a kind not known here.
    """
    reader, writer = Reader(local), Writer(local.tokenizer)
    best = max(match for _, match in recited)
    pieces: list[KeysAndValues] = []
    priors: list[float] = []
    for span, match in sorted(recited, key=lambda one: one[0].turn.seq):
        parts = writer.cut(replace(span.turn, text=span.text))
        pieces += reader.read([Row(writer.before(()), part.ids) for part in parts])
        priors += [log(match / best)] * len(parts)
    return Attended(
        pieces,
        reader.theta,
        local.model.device,
        local.model.dtype,
        placement="consecutive",
        offset=0,
        priors=priors,
    )
