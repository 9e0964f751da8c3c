"""What the index refuses, in sentences that say what was expected and what came."""

from __future__ import annotations

from typing import get_args

import torch

from memagent.kernels.lsh.table import Probing, Projection

_KEPT = (torch.bfloat16, torch.float16, torch.float32)


def check_settings(tables: int, bits: int | None, probes: int | None, projection: str, probing: str) -> None:
    if tables < 1:
        raise ValueError(f"Expected tables of at least 1, got {tables}.")
    if bits is not None and not 1 <= bits <= 30:
        raise ValueError(f"Expected bits of 1 to 30 or None, got {bits}.")
    if probes is not None and probes < 1:
        raise ValueError(f"Expected probes of at least 1 or None, got {probes}.")
    if projection not in get_args(Projection):
        raise ValueError(f"Expected projection {' or '.join(get_args(Projection))}, got {projection!r}.")
    if probing not in get_args(Probing):
        raise ValueError(f"Expected probing {' or '.join(get_args(Probing))}, got {probing!r}.")


def check_keys(ids: torch.Tensor, keys: torch.Tensor, stored: torch.Tensor | None) -> None:
    """Raise ValueError unless ids and keys fit each other and the type and dimension of those stored."""
    if keys.dim() != 2 or ids.shape != keys.shape[:1] or ids.dtype != torch.int64:
        raise ValueError(
            f"Expected ids int64 [n] and keys [n, dim], got {ids.dtype} {list(ids.shape)} and {list(keys.shape)}."
        )
    kept = _KEPT if stored is None else (stored.dtype,)
    if keys.dtype not in kept:
        raise ValueError(f"Expected keys of {' or '.join(map(str, kept))}, got {keys.dtype}.")
    if stored is not None and keys.shape[1] != stored.shape[1]:
        raise ValueError(
            f"Expected keys of dimension {stored.shape[1]}, as those stored, got {keys.shape[1]}."
        )
    if not keys.isfinite().all():
        raise ValueError("Expected finite keys, got some with inf or nan.")


def check_new(ids: torch.Tensor, stored: torch.Tensor) -> None:
    """Raise ValueError unless ids are not negative, differ, and are not stored."""
    if not len(ids):
        return
    if int(ids.min()) < 0:
        raise ValueError(f"Expected ids of 0 and above, got {int(ids.min())}.")
    different = len(torch.unique(ids))
    if different != len(ids):
        raise ValueError(f"Expected each id once, got {len(ids)} ids of which {different} differ.")
    # Ids mostly grow, and then one maximum answers.
    if len(stored) and int(ids.min()) <= int(stored.max()):
        twice = ids[torch.isin(ids, stored)]
        if len(twice):
            raise ValueError(f"Expected new ids, got {len(twice)} that are stored: {twice[:5].tolist()}.")
