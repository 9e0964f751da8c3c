"""The results of the Titans memory in the contract's types."""

from __future__ import annotations

from collections.abc import Sequence

from memagent.backends.records import Hit, WriteResult
from memagent.backends.titans.chunks import Chunk


def hit_of(chunk: Chunk, score: float, *, regenerated: bool) -> Hit:
    """Return a recalled chunk as a hit.

    Args:
        chunk: The chunk.
        score: Higher is more relevant.
        regenerated: Whether the associative memory decoded it; else the neural memory points at it.
    """
    reason = (
        "The associative memory decoded this text word by word"
        if regenerated
        else "The output of the neural memory is similar to this chunk's embedding"
    )
    return Hit(
        (chunk.turn.seq,),
        score,
        text=chunk.text,
        regenerated=regenerated,
        why=(
            f"{reason} (score {score:.2f}). Its surprise was {chunk.write.surprise:.2f} when it was read; "
            f"learning it reduced the surprise by {chunk.write.surprise_reduction:.2f}."
        ),
    )


def write_result(seq: int, chunks: Sequence[Chunk]) -> WriteResult:
    """Return the result of a turn's write, with means over its chunks.

    Its strength is the surprise reduction, limited to 0 to 1: a new chunk that is stored completely has 1.

    Args:
        seq: The turn.
        chunks: The chunks that were written with it; those of other turns are ignored.
    """
    writes = [chunk.write for chunk in chunks if chunk.turn.seq == seq]
    if not writes:
        return WriteResult(seq, stored=False)
    surprise, reduction = (sum(values) / len(writes) for values in zip(*writes, strict=True))
    return WriteResult(seq, surprise=surprise, strength=min(1.0, max(0.0, reduction)))
