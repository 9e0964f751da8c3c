"""From tokens to the keys of their windows, layer by layer.

A window is named by its end: window ``end`` of layer i holds the tokens ``end - heads ** i`` to ``end - 1``, and consists of
``heads`` windows of layer i - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memagent.backends.neural.memo.settings import MeMoSettings
from memagent.backends.neural.memo.vectors import Vectors, sign

Positions = NDArray[np.int64]
Read = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Composed:
    """The keys of windows and, where they are needed, their codes.

    Attributes:
        keys: For each layer ``[windows, dim]``: int8, or float32 above layer 1 if codes are retrieved.
        codes: For each layer but the last, ``[windows, dim]`` int8: X^(i+1) of the paper. Empty for bound keys.
    """

    keys: list[Tensor]
    codes: list[Tensor]


def needed_ends(settings: MeMoSettings, ends: Sequence[Positions]) -> list[Positions]:
    """Return for each layer the windows that are asked for, or that windows of higher layers consist of, sorted."""
    needed = list(ends)
    for layer in range(settings.layers - 1, 0, -1):
        above = block_ends(settings, needed[layer], layer + 1)
        needed[layer - 1] = np.union1d(needed[layer - 1], above.reshape(-1))
    return needed


def compose(
    settings: MeMoSettings, vectors: Vectors, ids: Sequence[int], ends: Sequence[Positions], read: Read | None
) -> Composed:
    """Return the keys of windows of every layer (section 3.2 of the paper, first two equations).

    Args:
        settings: Sizes and composition.
        vectors: The random vectors.
        ids: The tokens of all texts, one after the other.
        ends: The windows of each layer, sorted, from layer 1 on.
        read: Called with a layer and the keys of its windows, it returns their retrieved codes. None: codes are computed.
    """
    needed = needed_ends(settings, ends)
    codes, code_ends = vectors.codes(ids), np.arange(1, len(ids) + 1)
    composed = Composed([], [])
    for layer in range(1, settings.layers + 1):
        blocks = np.searchsorted(code_ends, block_ends(settings, needed[layer - 1], layer))
        if settings.composition == "bound":
            keys = codes = _bound(settings, codes, blocks, layer)
        else:
            keys = _concatenated(settings, vectors, codes, blocks, layer)
            if layer < settings.layers:
                codes = (
                    _sequence_codes(settings, vectors, codes, blocks, layer)
                    if read is None
                    else read(layer, keys)
                )
        code_ends = needed[layer - 1]
        rows = torch.from_numpy(np.searchsorted(code_ends, ends[layer - 1]))
        composed.keys.append(keys[rows])
        if settings.composition != "bound" and layer < settings.layers:
            composed.codes.append(codes[rows])
    return composed


def block_ends(settings: MeMoSettings, ends: Positions, layer: int) -> Positions:
    """Return the ends of the blocks of a layer's windows, ``[windows, heads]``, first block first."""
    steps = np.arange(settings.heads - 1, -1, -1) * settings.heads ** (layer - 1)
    blocks: Positions = ends[:, None] - steps
    return blocks


def _bound(settings: MeMoSettings, codes: Tensor, blocks: Positions, layer: int) -> Tensor:
    """Return the product of the blocks' codes, each rotated by its distance from the end (Plate 1995; Kanerva 2009)."""
    step = settings.heads ** (layer - 1)
    keys = torch.ones(len(blocks), settings.dim, dtype=torch.int8)
    for place in range(settings.heads):
        rows = codes[torch.from_numpy(blocks[:, place])]
        keys *= rows.roll(step * (settings.heads - 1 - place), dims=1)
    return keys


def _concatenated(
    settings: MeMoSettings, vectors: Vectors, codes: Tensor, blocks: Positions, layer: int
) -> Tensor:
    """Return the projected blocks of each window, side by side (eq. 2; I^(i) of section 3.2)."""
    sums = codes.float() @ vectors.block_projection(layer)
    # A retrieved code is the code times its weight, plus noise. Its products are kept as they are, so that a code that was
    # retrieved faintly speaks faintly; divided by their mean magnitude, for a code that was retrieved without noise.
    parts = sums / (2 * settings.dim / torch.pi) ** 0.5 if codes.is_floating_point() else sign(sums)
    return parts[torch.from_numpy(blocks)].reshape(len(blocks), settings.dim)


def _sequence_codes(
    settings: MeMoSettings, vectors: Vectors, codes: Tensor, blocks: Positions, layer: int
) -> Tensor:
    """Return the codes of whole windows: Flat_h(X) Prj, to signs."""
    flat = codes[torch.from_numpy(blocks)].reshape(len(blocks), settings.heads * settings.dim)
    return sign(flat.float() @ vectors.sequence_projection(layer))
