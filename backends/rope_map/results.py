"""How the heads attend to the stored chunks, as a picture."""

from __future__ import annotations

import torch

from memagent.backends.picture import Grid
from memagent.backends.rope_map.addressing import CalibratedHeads, ChunkEvidence
from memagent.backends.rope_map.chunk_table import ChunkTable

_MAX_CHUNKS = 12
"""The chunks with the most evidence that a grid shows; the others have next to none."""
_MAX_CHARACTERS = 80


def attention_grid(evidence: ChunkEvidence, heads: CalibratedHeads, chunks: ChunkTable) -> Grid:
    """Return what each head contributes to the score of the chunks with the highest scores.

    Args:
        evidence: of all heads on a question's chunks.
        heads: whose weights turn evidence into scores.
        chunks: has the chunks' texts.

    Returns:
        One row for each query head and one for the value heads; a higher value raises the chunk's score more.
    """
    num_rows = len(heads.query_heads) + 1
    shares = (evidence.evidence * heads.weights).view(-1, 2, num_rows).sum(1)
    best = torch.argsort(shares.sum(1), descending=True, stable=True)[:_MAX_CHUNKS].tolist()
    numbers = [evidence.chunks[place] for place in best]
    return Grid(
        "What each attention head adds to a chunk's score",
        (*(f"layer {head.layer} head {head.head} @{head.offset}" for head in heads.query_heads), "values"),
        tuple(
            f"turn {chunks[number].turn.seq}: {chunks[number].text[:_MAX_CHARACTERS]}" for number in numbers
        ),
        tuple(tuple(row) for row in shares[best].T.tolist()),
        "nats",
    )
