"""The windows of texts: which ones a memory stores, and their hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memagent.backends.neural.memo.composition import Positions, block_ends, needed_ends
from memagent.backends.neural.memo.counts import Hasher
from memagent.backends.neural.memo.settings import MeMoSettings


@dataclass(frozen=True)
class Windows:
    """Texts one after the other, and windows of them by their ends.

    Attributes:
        ids: The tokens of all texts.
        texts: For each token, the number of its text.
        pairs: For each layer, the windows that are stored with the token after them.
        codes: For each layer but the last, the windows that are stored with their code. Empty unless codes are retrieved.
    """

    ids: NDArray[np.int32]
    texts: NDArray[np.int64]
    pairs: list[Positions]
    codes: list[Positions]

    @property
    def groups(self) -> list[Positions]:
        """All that is counted: the pairs of each layer, the codes of each layer, and the next tokens by their places."""
        return [*self.pairs, *self.codes, self.pairs[0]]


def start_ids(settings: MeMoSettings) -> list[int]:
    """Return the ids of the places before a text's beginning, so that its first windows are complete."""
    return list(range(-settings.window, 0))


def lay_out(settings: MeMoSettings, texts: Sequence[Sequence[int]], *, filled: bool) -> Windows:
    """Return the windows of texts that a memory stores.

    Layer i has a window every ``stride ** i`` tokens. With the paper's stride, h, this is the step at which the paper's
    example selects next tokens; the printed equations select every h-th at every layer.

    Args:
        settings: Sizes and stride.
        texts: Token ids.
        filled: Whether texts begin with windows of `start_ids`; otherwise with their first complete window.
    """
    start = start_ids(settings) if filled else []
    ids: list[int] = []
    numbers: list[int] = []
    pairs: list[list[NDArray[np.int64]]] = [[] for _ in range(settings.layers)]
    for number, text in enumerate(texts):
        offset = len(ids)
        ids += [*start, *text]
        numbers += [number] * (len(start) + len(text))
        for layer, ends in enumerate(pairs, 1):
            first = len(start) if filled else settings.heads**layer
            ends.append(np.arange(offset + first, len(ids), settings.stride**layer))
    joined = [np.concatenate([np.empty(0, np.int64), *ends]) for ends in pairs]
    codes: list[Positions] = []
    if settings.composition == "retrieved":
        needed = needed_ends(settings, joined)
        codes = [np.unique(block_ends(settings, needed[i], i + 1)) for i in range(1, settings.layers)]
    return Windows(np.array(ids, np.int32), np.array(numbers, np.int64), joined, codes)


@dataclass(frozen=True)
class Places:
    """Places in texts at which the next token is asked for.

    Attributes:
        ids: The tokens of all texts, each after as many `start_ids` as its windows need.
        ends: The places, ascending: a window that ends there is the context of the token there.
        available: For each layer and place whether the window lies within the text, or the text is filled.
    """

    ids: list[int]
    ends: Positions
    available: Tensor


def lay_out_places(
    settings: MeMoSettings, contexts: Sequence[Sequence[int]], last: Sequence[int], *, filled: bool
) -> Places:
    """Return the last places of contexts.

    Args:
        settings: Sizes.
        contexts: Token ids, from the text's beginning or from ``window`` tokens before the first place on.
        last: For each context, how many places; the last one is after its last token.
        filled: Whether texts begin with windows of `start_ids`.
    """
    start = start_ids(settings)
    ids: list[int] = []
    ends: list[int] = []
    beginnings: list[int] = []  # for each place, where its text begins
    for context, count in zip(contexts, last, strict=True):
        padded = [*start, *context][-(settings.window + count - 1) :]
        beginnings += [len(ids) + len(padded) - len(context)] * count
        ids += padded
        ends += range(len(ids) - count + 1, len(ids) + 1)
    available = torch.ones(settings.layers, len(ends), dtype=torch.bool)
    if not filled:
        lengths = torch.tensor(ends) - torch.tensor(beginnings)
        for layer in range(settings.layers):
            available[layer] = lengths >= settings.heads ** (layer + 1)
    return Places(ids, np.array(ends, np.int64), available)


def hashes(settings: MeMoSettings, windows: Windows, prefixes: Sequence[bytes], hasher: Hasher) -> list[int]:
    """Return the hashes of all `Windows.groups`, in their order.

    Args:
        settings: Sizes.
        windows: What `lay_out` returned.
        prefixes: For each text its code, or empty: pairs of texts with different codes are different pairs.
        hasher: Of the memory.
    """
    raw = windows.ids.tobytes()
    result: list[int] = []

    def add(purpose: str, ends: Positions, before: int, after: int, prefixes: Sequence[bytes]) -> None:
        numbers = windows.texts[ends]
        # Texts stand one after the other, so that equal numbers are neighbours.
        borders = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(ends)]
        for first, last in pairwise(borders):
            if first < last:
                part = (raw[4 * (end - before) : 4 * (end + after)] for end in ends[first:last].tolist())
                result.extend(hasher.windows(purpose, prefixes[int(numbers[first])], part))

    unbound = [b""] * len(prefixes)
    for layer, ends in enumerate(windows.pairs, 1):
        add(f"pair {layer}", ends, settings.heads**layer, 1, prefixes)
    for layer, ends in enumerate(windows.codes, 1):
        add(f"code {layer}", ends, settings.heads**layer, 0, unbound)
    add("token", windows.pairs[0], 0, 1, unbound)
    return result


def token_hash(hasher: Hasher, token: int) -> int:
    """Return the hash under which a token is counted."""
    return hasher.windows("token", b"", [np.int32(token).tobytes()])[0]


def replaced(text: Sequence[int], old: Sequence[int], new: Sequence[int]) -> list[int]:
    """Return a text with every occurrence of a part replaced, from left to right.

    Raises:
        ValueError: The part is empty or does not occur.
    """
    result: list[int] = []
    place = occurrences = 0
    while place < len(text):
        if old and list(text[place : place + len(old)]) == list(old):
            result += new
            place, occurrences = place + len(old), occurrences + 1
        else:
            result.append(text[place])
            place += 1
    if not occurrences:
        raise ValueError(f"the tokens to be replaced, {list(old)}, are expected to occur in the text")
    return result


def chosen(groups: list[Positions], places: list[int]) -> list[Positions]:
    """Return the members of each group at places in all groups one after the other, ascending."""
    borders = np.cumsum([0, *map(len, groups)])
    ordered = np.array(sorted(places), np.int64)
    parts = np.split(ordered, np.searchsorted(ordered, borders[1:-1]))
    return [
        np.sort(group[own - border]) for group, own, border in zip(groups, parts, borders[:-1], strict=True)
    ]


def within(ends: Positions, first: int, last: int) -> Positions:
    """Return the windows that end from ``first`` on and before ``last``."""
    return ends[(ends >= first) & (ends < last)]
