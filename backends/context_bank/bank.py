"""The bank: a bounded number of latent vectors, whose state is a function of the turns and of the uses that replies made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memagent.backends.context_bank import bank_state
from memagent.backends.context_bank.bank_reading import BankReader
from memagent.backends.context_bank.blocks import (
    MAX_MAGNITUDE,
    Block,
    Floats,
    Precision,
    block_of,
    check_of,
    quantise,
)
from memagent.backends.context_bank.consolidation import (
    ConsolidationRule,
    Moment,
    consolidate,
)
from memagent.backends.errors import SettingError


class ContextBank(BankReader):
    """Stores the latent vectors of turns, at most ``capacity`` or one for each block, whichever is more.

    When the turns of ``n`` blocks have begun to arrive, each block may have ``capacity // n`` vectors, or 1. Calls follow the
    order of the journal; how they are batched changes nothing.

    Args:
        dim: size of a vector.
        capacity: most vectors, 1 or more.
        precision: ``float32``, or ``int8`` for a quarter of the memory.
        rule: how vectors are merged or evicted.

    Raises:
        SettingError: a setting is out of its range.
    """

    def __init__(
        self,
        dim: int,
        capacity: int,
        precision: Precision = "float32",
        rule: ConsolidationRule | None = None,
    ) -> None:
        if capacity < 1:
            raise SettingError(f"capacity is {capacity}; it must be 1 or more.")
        if precision not in ("float32", "int8"):
            raise SettingError(f"precision is {precision!r}; it must be float32 or int8.")
        self.precision = precision
        self.rule = rule or ConsolidationRule()
        if self.rule.key_dim > dim:
            raise SettingError(f"key_dim is {self.rule.key_dim}; vectors have only {dim} elements.")
        super().__init__(dim, capacity, self.rule.key_dim)

    def add(self, seq: int, vectors: ArrayLike) -> None:
        """Store a turn, and consolidate blocks that exceed their quota.

        Args:
            seq: of the turn, higher than all before.
            vectors: ``[k, dim]``, k 1 or more.

        Raises:
            ValueError: the turn is not newer than the newest one, or a vector has another size or is not finite.
        """
        rows = self._checked(vectors)
        if seq <= self.newest_seq or seq < self._newest_reply:
            raise ValueError(
                f"turn {seq} comes after turn {self.newest_seq} and the uses of reply {self._newest_reply}: "
                "turns must come in the order of their seqs"
            )
        blocks = dict(self._blocks)
        for number in range(self._newest + 1, block_of(seq) + 1):
            blocks = {key: self._begin(block, number) for key, block in blocks.items()}
        own = blocks.get(block_of(seq)) or Block.empty(block_of(seq), self.dim, self.precision)
        blocks[own.number] = self._arrive(own, seq, rows)
        self._change(blocks)

    def note_use(self, reply_seq: int, seqs: Iterable[int]) -> None:
        """Note that a reply had turns in view. Turns that are not stored are ignored.

        Args:
            reply_seq: of the reply.
            seqs: of the recalled turns.

        Raises:
            ValueError: a turn later than the reply was stored before.
        """
        if reply_seq < self.newest_seq:
            raise ValueError(
                f"the uses of reply {reply_seq} come after turn {self.newest_seq}: they must come in the order of seqs"
            )
        by_block: dict[int, set[int]] = {}
        for seq in set(seqs):
            block = self._blocks.get(block_of(seq))
            if block is not None and 0 < seq < reply_seq and seq in block.seqs:
                by_block.setdefault(block.number, set()).add(seq)
        if by_block:
            changed = {
                number: self._blocks[number].add_uses(reply_seq, used) for number, used in by_block.items()
            }
            self._change(self._blocks | changed)

    def needed_to_forget(self, seqs: Collection[int]) -> frozenset[int]:
        """Return the other turns whose original vectors ``forget`` needs; empty if dropping vectors is enough."""
        forgotten = frozenset(seqs)
        replayed = self._replayed(forgotten)
        needed = {seq for number in replayed for seq in self._blocks[number].seqs.tolist()}
        return frozenset(needed - forgotten)

    def forget(self, seqs: Collection[int], vectors: Mapping[int, ArrayLike]) -> bool:
        """Restore the state of a bank that never got some turns, nor the uses that they made or had.

        Args:
            seqs: of the turns, and of replies that need not be stored. Unknown seqs are ignored.
            vectors: the original vectors of the turns that ``needed_to_forget`` returns; others are ignored.

        Returns:
            False if needed vectors are missing or differ from those that were stored. Then nothing has changed.
        """
        forgotten = frozenset(seqs)
        blocks = {}
        replayed, newest = self._replayed(forgotten), self._newest_without(forgotten)
        for number, block in self._blocks.items():
            restored = (
                self._replay(block, forgotten, vectors, newest)
                if number in replayed
                else block.without(forgotten)
            )
            if restored is None:
                return False
            if len(restored.seqs):
                blocks[number] = restored
        self._change(blocks)
        return True

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the state as arrays by name; ``restore`` reads it."""
        return bank_state.tensors(self._blocks.values(), self.dim, self.precision)

    @classmethod
    def restore(
        cls,
        tensors: Mapping[str, NDArray[Any]],
        dim: int,
        capacity: int,
        precision: Precision = "float32",
        rule: ConsolidationRule | None = None,
    ) -> ContextBank:
        """Return the bank whose ``tensors`` were stored; the other arguments are those that it was made with.

        Raises:
            ValueError: the state is damaged, or a bank with other settings had it.
        """
        bank = cls(dim, capacity, precision, rule)
        blocks = bank_state.blocks(tensors, dim, precision, merges=bank.rule.merges)
        if blocks:
            quota = bank.quota(blocks[-1].number + 1)
            for block in blocks:
                if len(block) > quota:
                    raise ValueError(f"block {block.number} has {len(block)} vectors; its quota is {quota}")
        bank._blocks = {block.number: block for block in blocks}
        return bank

    @property
    def _newest_reply(self) -> int:
        return max((int(block.uses[-1, 0]) for block in self._blocks.values() if len(block.uses)), default=0)

    def _newest_without(self, forgotten: frozenset[int]) -> int:
        seqs = (seq for block in self._blocks.values() for seq in block.seqs.tolist())
        return max((block_of(seq) for seq in seqs if seq not in forgotten), default=-1)

    def _begin(self, block: Block, number: int) -> Block:
        """Consolidate a block as a later one begins."""
        return consolidate(block, self.quota(number + 1), self.rule, Moment(number + 1))

    def _arrive(self, block: Block, seq: int, vectors: Floats) -> Block:
        """Add a turn to its block."""
        blocks = block.number + 1
        return consolidate(
            block.append(seq, vectors), self.quota(blocks), self.rule, Moment(blocks, turn=seq)
        )

    def _replayed(self, forgotten: frozenset[int]) -> list[int]:
        """Return the blocks in which something was merged or evicted that would not have been, had turns never come."""
        newest = self._newest_without(forgotten)
        seqs = list(forgotten)
        replayed = []
        for number, block in self._blocks.items():
            lost = np.isin(block.seqs, seqs)
            if not block.removals or lost.all():
                continue
            uses = block.uses[block.uses[:, 0] <= block.last_cutoff]
            if (
                lost.any()
                or int(block.records[-1]["blocks"]) > newest + 1
                or (self.rule.follows_use and np.isin(uses[:, 0], seqs).any())
            ):
                replayed.append(number)
        return replayed

    def _replay(
        self, block: Block, forgotten: frozenset[int], vectors: Mapping[int, ArrayLike], newest: int
    ) -> Block | None:
        uses = block.uses_without(forgotten)
        restored = Block.empty(block.number, self.dim, self.precision, uses)
        for seq, size, check in zip(
            block.seqs.tolist(), block.sizes.tolist(), block.checks.tolist(), strict=True
        ):
            if seq in forgotten:
                continue
            if seq not in vectors:
                return None
            try:
                rows = self._checked(vectors[seq])
            except ValueError:
                return None
            if len(rows) != size or check_of(*quantise(rows, self.precision)) != check:
                return None
            restored = self._arrive(restored, seq, rows)
        for number in range(block.number + 1, newest + 1):
            restored = self._begin(restored, number)
        return restored

    def _checked(self, vectors: ArrayLike) -> Floats:
        rows = np.array(vectors, dtype=np.float32)
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != self.dim:
            raise ValueError(f"vectors have the shape {list(rows.shape)}; expected [1 or more, {self.dim}]")
        if not (np.abs(rows) <= MAX_MAGNITUDE).all():
            raise ValueError(f"a vector has an element that is not finite, or beyond {MAX_MAGNITUDE:g}")
        return rows
