"""Keys and values of windows, as the rows whose outer products enter or leave the matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memagent.backends.neural.memo.composition import Positions, compose
from memagent.backends.neural.memo.reading import binding
from memagent.backends.neural.memo.settings import MeMoSettings
from memagent.backends.neural.memo.vectors import Vectors
from memagent.backends.neural.memo.windows import Windows


@dataclass(frozen=True)
class Rows:
    """Rows for each matrix, int8.

    Attributes:
        keys, values: Of the last matrix, ``[pairs, dim]`` each: windows and the tokens after them.
        codes: Keys and values of each C^(i): windows and their codes.
    """

    keys: Tensor
    values: Tensor
    codes: list[tuple[Tensor, Tensor]]


def rows_of(
    settings: MeMoSettings,
    vectors: Vectors,
    windows: Windows,
    pairs: list[Positions],
    code_windows: list[Positions],
    codes: Tensor | None,
) -> Rows:
    """Return the rows of windows that end near each other; there must be one at least.

    Args:
        settings: Sizes and composition.
        vectors: The random vectors.
        windows: What `lay_out` returned.
        pairs: The windows of each layer that are paired with the token after them.
        code_windows: The windows of each layer that are paired with their code; empty unless codes are retrieved.
        codes: ``[texts, dim]``, the codes of the texts, or None.
    """
    ends = list(pairs)
    for layer, code_ends in enumerate(code_windows):
        ends[layer] = np.union1d(pairs[layer], code_ends)
    first = max(min(int(each[0]) for each in ends if len(each)) - settings.window, 0)
    last = max(int(each[-1]) for each in ends if len(each))
    ids = windows.ids[first:last].tolist()
    composed = compose(settings, vectors, ids, [each - first for each in ends], None)
    keys = torch.cat(
        [
            layer_keys[torch.from_numpy(np.searchsorted(each, pair))]
            for layer_keys, each, pair in zip(composed.keys, ends, pairs, strict=True)
        ]
    )
    joined = np.concatenate(pairs)
    if codes is not None:
        keys = keys * codes.cpu()[torch.from_numpy(windows.texts[joined])]
    values = vectors.codes(windows.ids[joined].tolist())
    if settings.composition == "bound":
        values = values * binding(keys)
    code_rows = []
    for layer, code_ends in enumerate(code_windows):
        places = torch.from_numpy(np.searchsorted(ends[layer], code_ends))
        code_rows.append((composed.keys[layer][places], composed.codes[layer][places]))
    return Rows(keys, values, code_rows)
