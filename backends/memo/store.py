"""What the MeMo memory holds: segments by their ids, an index that finds them, and matrices that regenerate their texts."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memagent.backends.memo.config import CODE_COLUMNS, TURNS_PER_INDEX, WINDOW_TOKENS
from memagent.backends.memo.index import KINDS, Rows, SegmentIndex
from memagent.backends.memo.segments import Segment, StoredState, check_of, windows_of
from memagent.backends.memo.sequences import SequenceMatrices
from memagent.backends.memo.tokenizer import ByteTokenizer


@dataclass(frozen=True, slots=True)
class StoredText:
    """A segment with its regenerated text.

    Attributes:
        segment: its place.
        text: its characters.
        confidence: lowest probability of a token that it was regenerated rightly, 0.5 to 1.
    """

    segment: Segment
    text: str
    confidence: float


class MemoStore:
    """The state of the memory: a function of the turns that it holds, whatever their order.

    Attributes:
        segments: all that is stored, by seq and part.
        index: finds them.
        sequences: regenerates their texts.

    Args:
        seed: of all random vectors.
    """

    def __init__(self, seed: int) -> None:
        self.segments: list[Segment] = []
        self.index = SegmentIndex(seed)
        self.sequences = SequenceMatrices(self._tokenizer.size, WINDOW_TOKENS, seed)

    def add(self, turn_id: str, seq: int, texts: Sequence[str], rows: Sequence[Rows]) -> None:
        """Store the segments of a turn.

        Args:
            turn_id: id of the turn.
            seq: of the turn.
            texts: of its segments.
            rows: of each segment in the index, by kind.
        """
        windows = [windows_of(text, self._tokenizer) for text in texts]
        starts = [0, *accumulate(map(len, windows))]
        segments = [
            Segment(
                turn_id,
                seq,
                part,
                starts[part],
                len(windows[part]),
                starts[-1],
                check_of(turn_id, part, text),
                check_of(turn_id, part, str(rows[part])),
            )
            for part, text in enumerate(texts)
        ]
        self._write(list(zip(segments, windows, rows, strict=True)), subtract=False)
        for segment in segments:
            insort(self.segments, segment, key=lambda item: (item.seq, item.part))
        self.__dict__.pop("columns", None)

    def remove(self, stored: Sequence[tuple[StoredText, Rows]]) -> bool:
        """Subtract segments, so that nothing of them is left.

        Args:
            stored: the segments with their texts and rows, as they were added.

        Returns:
            False, and nothing is changed, if a text or its rows are others than those that were stored.
        """
        for item, rows in stored:
            segment = item.segment
            if segment.text_check != check_of(segment.turn_id, segment.part, item.text):
                return False
            if segment.rows_check != check_of(segment.turn_id, segment.part, str(rows)):
                return False
        self._write(
            [(item.segment, windows_of(item.text, self._tokenizer), rows) for item, rows in stored],
            subtract=True,
        )
        removed = {(item.segment.seq, item.segment.part) for item, _ in stored}
        self.segments = [segment for segment in self.segments if (segment.seq, segment.part) not in removed]
        self.__dict__.pop("columns", None)
        return True

    def regenerate(self, segments: Sequence[Segment]) -> list[StoredText]:
        """Return the texts of segments, from the matrices alone.

        A text that differs from what was stored, as its check tells, is left out: the memory is silent, not wrong.
        """
        regenerated = self.sequences.read([address for segment in segments for address in segment.addresses])
        texts = []
        start = 0
        for segment in segments:
            windows = regenerated[start : start + segment.windows]
            start += segment.windows
            ids = [token for window in windows for token in window.ids]
            if ids and ids[-1] == self._tokenizer.end:
                text = self._tokenizer.decode(ids[:-1])
                if segment.text_check == check_of(segment.turn_id, segment.part, text):
                    texts.append(StoredText(segment, text, min(window.confidence for window in windows)))
        return texts

    def of_turns(self, seqs: Collection[int]) -> list[Segment]:
        """Return the segments of turns."""
        wanted = set(seqs)
        return [segment for segment in self.segments if segment.seq in wanted]

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """The columns of all segments in the index, ``[segments, CODE_COLUMNS]``."""
        rows = [self.index.columns(segment) for segment in self.segments]
        return np.array(rows, np.int64).reshape(len(rows), CODE_COLUMNS)

    @property
    def bytes(self) -> int:
        """Size of all matrices in memory."""
        matrices = [*self.sequences.matrices.values(), *self.index.matrices.values()]
        return sum(matrix.nbytes for matrix in matrices)

    @property
    def state(self) -> StoredState:
        """What is stored beside the matrices."""
        return StoredState(self.segments, dict(sorted(self.sequences.pairs.items())))

    def tensors(self) -> dict[str, Tensor]:
        """Return the matrices and the counts of tokens as they are stored."""
        return self.sequences.tensors() | self.index.tensors()

    def restore(self, state: StoredState, tensors: Mapping[str, Tensor]) -> None:
        """Take over a stored state.

        Raises:
            ValueError: the matrices are not those that the segments need.
        """
        dims = {address.matrix: address.dim for segment in state.segments for address in segment.addresses}
        indexed = {name for name in tensors if name.partition(".")[0] in KINDS}
        blocks = {segment.seq // TURNS_PER_INDEX for segment in state.segments}
        self.index.restore({name: tensors[name] for name in indexed}, blocks)
        self.sequences.restore({name: tensors[name] for name in set(tensors) - indexed}, state.pairs, dims)
        self.segments = list(state.segments)

    @cached_property
    def _tokenizer(self) -> ByteTokenizer:
        return ByteTokenizer()

    def _write(
        self,
        stored: Sequence[tuple[Segment, list[list[int]], Rows]],
        *,
        subtract: bool,
    ) -> None:
        """Add segments to both kinds of matrices, or subtract them."""
        addressed = [
            (address, ids)
            for segment, windows, _ in stored
            for address, ids in zip(segment.addresses, windows, strict=True)
        ]
        self.sequences.write(addressed, subtract=subtract)
        self.index.write([(segment, rows) for segment, _, rows in stored], subtract=subtract)
