"""The stored form of a bank: arrays by name, which are checked when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memagent.backends.context_bank.blocks import (
    MAX_MAGNITUDE,
    MAX_RECORDS,
    RECORD,
    TURNS_PER_BLOCK,
    Block,
    Precision,
    dequantise,
    turn_mask,
)

Arrays = Mapping[str, NDArray[Any]]


def tensors(blocks: Iterable[Block], dim: int, precision: Precision) -> dict[str, NDArray[Any]]:
    """Return the state of blocks, oldest first.

    Returns:
        ``blocks.*`` per block, ``turns.*`` per turn, ``vectors.*`` per vector (``vectors.scales`` with ``int8`` only, and the number
        of turns that each came from), ``sources.*`` per vector and turn it came from, ``uses`` and ``records.*``.
    """
    rows = list(blocks)
    nonzero = [np.nonzero(block.weights) for block in rows]
    empty = Block.empty(0, dim, precision)

    def joined(attribute: Callable[[Block], NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([attribute(empty), *map(attribute, rows)])

    records = joined(lambda block: block.records)
    state: dict[str, NDArray[Any]] = {
        "blocks.numbers": np.array([block.number for block in rows], np.int32),
        "blocks.vectors": np.array([len(block) for block in rows], np.int32),
        "blocks.uses": np.array([len(block.uses) for block in rows], np.int32),
        "blocks.records": np.array([len(block.records) for block in rows], np.int32),
        "blocks.removals": np.array([block.removals for block in rows], np.int64),
        "turns.seqs": joined(lambda block: block.seqs),
        "turns.sizes": joined(lambda block: block.sizes),
        "turns.checks": joined(lambda block: block.checks),
        "vectors.codes": joined(lambda block: block.codes),
        "vectors.sources": joined(lambda block: (block.weights > 0).sum(axis=1).astype(np.uint8)),
        "sources.places": _joined([places for _, places in nonzero], np.uint8),
        "sources.weights": _joined(
            [block.weights[index] for block, index in zip(rows, nonzero, strict=True)], np.int32
        ),
        "uses": joined(lambda block: block.uses),
    }
    if precision == "int8":
        state["vectors.scales"] = joined(lambda block: block.scales)
    for name in RECORD.names or ():
        # Not every reader of stored tensors knows uint64.
        column = np.ascontiguousarray(records[name])
        state[f"records.{name}"] = column.view(np.int64) if column.dtype == np.uint64 else column
    return state


def blocks(state: Arrays, dim: int, precision: Precision, *, merges: bool) -> list[Block]:
    """Return the blocks of a stored state, oldest first.

    Args:
        state: what ``tensors`` returned.
        dim: size of a vector.
        precision: of the vectors.
        merges: whether vectors are merged, so that none is ever evicted.

    Raises:
        ValueError: the state is damaged, or stored with other settings.
    """
    expected = tensors([], dim, precision)
    _require(state.keys() == expected.keys(), f"has {_names(state)}; expected {_names(expected)}")
    for name, template in expected.items():
        array = state[name]
        _require(
            array.dtype == template.dtype
            and array.ndim == template.ndim
            and array.shape[1:] == template.shape[1:],
            f"has {name} as {array.dtype} {list(array.shape)}; expected {template.dtype} [n, ...] as {list(template.shape)}",
        )
        _require(
            array.dtype.kind != "f" or bool(np.isfinite(array).all()),
            f"has {name} with a value that is not finite",
        )
    numbers = state["blocks.numbers"]
    _require(
        _ascending(numbers) and (not len(numbers) or numbers[0] >= 0), "has blocks that are not in order"
    )
    seqs = state["turns.seqs"]
    _require(_ascending(seqs) and (not len(seqs) or seqs[0] > 0), "has turns that are not in order")
    per_turn = {name: state[name] for name in ("turns.seqs", "turns.sizes", "turns.checks")}
    per_vector = {name: state[name] for name in ("vectors.codes", "vectors.sources")}
    if precision == "int8":
        per_vector["vectors.scales"] = state["vectors.scales"]
    per_record = {name: state[name] for name in state if name.startswith("records.")}
    own_blocks, turn_counts = np.unique(block_of_all(seqs), return_counts=True)
    _require(np.array_equal(own_blocks, numbers), "has turns of other blocks than it has")
    parts = {
        **_split(per_turn, turn_counts.tolist()),
        **_split(per_vector, state["blocks.vectors"].tolist()),
        **_split({"uses": state["uses"]}, state["blocks.uses"].tolist()),
        **_split(per_record, state["blocks.records"].tolist()),
    }
    counts = state["vectors.sources"].astype(np.int64)
    _require(bool((counts > 0).all()), "has a vector that comes from no turn")
    per_source = {name: state[name] for name in ("sources.places", "sources.weights")}
    parts |= _split(per_source, [int(part.sum(dtype=np.int64)) for part in parts["vectors.sources"]])
    result = []
    for index, number in enumerate(numbers.tolist()):
        own = {name: arrays[index] for name, arrays in parts.items()}
        block = _block(own, number, int(state["blocks.removals"][index]), precision)
        _check(block, merges=merges, num_blocks=int(numbers[-1]) + 1)
        result.append(block)
    return result


def block_of_all(seqs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of the block of each turn."""
    return (seqs - 1) // TURNS_PER_BLOCK


def _block(arrays: Arrays, number: int, removals: int, precision: Precision) -> Block:
    codes = arrays["vectors.codes"]
    weights = np.zeros((len(codes), TURNS_PER_BLOCK), np.int32)
    rows = np.repeat(np.arange(len(codes)), arrays["vectors.sources"])
    places = arrays["sources.places"]
    _require(bool((places < TURNS_PER_BLOCK).all()), f"has a source beyond block {number}")
    _require(
        _ascending(rows * TURNS_PER_BLOCK + places), f"has sources of block {number} that are not in order"
    )
    weights[rows, places] = arrays["sources.weights"]
    records = np.zeros(len(arrays["records.turn"]), RECORD)
    for name in RECORD.names or ():
        records[name] = arrays[f"records.{name}"].view(RECORD[name])
    scales = arrays["vectors.scales"] if precision == "int8" else np.ones(len(codes), np.float32)
    return Block(
        number=number,
        seqs=arrays["turns.seqs"],
        sizes=arrays["turns.sizes"],
        checks=arrays["turns.checks"],
        codes=codes,
        scales=scales,
        weights=weights,
        uses=arrays["uses"],
        records=records,
        removals=removals,
    )


def _check(block: Block, *, merges: bool, num_blocks: int) -> None:
    """Compare what a block says of its turns, vectors, uses and records with each other."""
    name = f"block {block.number}"
    _require(
        len(block.seqs) > 0 and bool((block.sizes > 0).all()),
        f"has no turns in {name}, or turns without vectors",
    )
    _require(bool((block.checks >= 0).all()), f"has checks in {name} that are below 0")
    _require(bool((block.scales >= 0).all()), f"has scales in {name} that are below 0")
    if block.precision == "int8":
        _require(bool((block.codes > -128).all()), f"has codes in {name} that are below -127")
    # Rounding of an int8 scale may exceed the limit by a little.
    magnitude = np.abs(dequantise(block.codes, block.scales)).max(initial=0)
    _require(bool(magnitude <= 1.01 * MAX_MAGNITUDE), f"has a vector in {name} that is too large")
    sizes = np.zeros(TURNS_PER_BLOCK, np.int64)
    sizes[block.seqs - block.first_seq] = block.sizes
    stored = block.weights.sum(axis=0, dtype=np.int64)
    consistent = (stored == sizes).all() if merges else (stored <= sizes).all() and (block.counts == 1).all()
    positive = (block.weights >= 0).all() and (block.counts > 0).all()
    _require(bool(consistent and positive), f"has vectors in {name} that do not come from its turns")
    _require(
        len(block) > 0 and len(block) + block.removals == int(sizes.sum()),
        f"has {len(block)} vectors in {name}; expected {int(sizes.sum())} less {block.removals} that were merged or evicted",
    )
    _require(
        len(block.records) == min(block.removals, MAX_RECORDS),
        f"has {len(block.records)} records in {name} of {block.removals} merges and evictions",
    )
    _check_records(block, merges=merges, num_blocks=num_blocks)
    replies, used = block.uses[:, 0], block.uses[:, 1]
    in_order = np.array_equal(np.unique(block.uses, axis=0), block.uses)
    _require(
        in_order and bool(np.isin(used, block.seqs).all() and (used < replies).all()),
        f"has uses in {name} that are not in order, or of turns that it does not have",
    )


def _check_records(block: Block, *, merges: bool, num_blocks: int) -> None:
    name = f"block {block.number}"
    _require(
        len(block.records) == min(block.removals, MAX_RECORDS),
        f"has {len(block.records)} records in {name} of {block.removals} merges and evictions",
    )
    turns, counts = block.records["turn"], block.records["blocks"]
    kept, removed = block.records["kept"], block.records["removed"]
    arrivals = np.where(turns > 0, block_of_all(turns), block.number)
    in_block = (turns >= 0) & (arrivals == block.number) & (block.number < counts) & (counts <= num_blocks)
    others = ~np.uint64(turn_mask(np.isin(np.arange(TURNS_PER_BLOCK) + block.first_seq, block.seqs)))
    of_turns = (((kept | removed) & others) == 0) & (removed > 0) & ((kept > 0) == merges)
    _require(bool((in_block & of_turns).all()), f"has records in {name} of another block or policy")


def _split(arrays: Arrays, counts: Sequence[int]) -> dict[str, list[NDArray[Any]]]:
    """Cut arrays of equal length into the parts of the blocks."""
    ends = np.cumsum([0, *counts])
    for name, array in arrays.items():
        _require(
            min(counts, default=0) >= 0 and len(array) == ends[-1],
            f"has {len(array)} rows in {name}; its blocks have {ends[-1]}",
        )
    return {
        name: [array[start:end] for start, end in pairwise(ends.tolist())] for name, array in arrays.items()
    }


def _joined(arrays: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)


def _ascending(numbers: NDArray[Any]) -> bool:
    return bool((np.diff(numbers.astype(np.int64)) > 0).all())


def _names(arrays: Arrays) -> str:
    return ", ".join(sorted(arrays)) or "nothing"


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise ValueError(f"the state of the bank {fault}")
