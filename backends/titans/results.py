"""The results of the Titans memory in the contract's types."""

from __future__ import annotations

from collections.abc import Sequence

from memagent.backends.picture import Series
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


def surprise_series(name: str, chunks: Sequence[Chunk]) -> Series:
    """Return how surprising each turn was when it was read, and by how much learning it reduced that, as curves.

    Args:
        name: The backend's name.
        chunks: All chunks in the order in which they were read.
    """
    by_seq: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_seq.setdefault(chunk.turn.seq, []).append(chunk)
    results = [write_result(seq, by_seq[seq]) for seq in sorted(by_seq)]
    curves = {
        "surprise": [result.surprise or 0.0 for result in results],
        "strength of the write": [result.strength or 0.0 for result in results],
    }
    return Series(f"{name}: surprise", "turn", tuple(float(result.seq) for result in results), curves)
