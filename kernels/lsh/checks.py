"""Argument checks of the index, with messages that name what was expected and what was given."""

from __future__ import annotations

import torch

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def check_query(queries: torch.Tensor, limit: int, probes: int | None, dim: int | None) -> None:
    """Raise ValueError unless queries are floating [q, dim], of any dimension if None, and the numbers at least 1."""
    if queries.dim() != 2 or not queries.is_floating_point() or (dim is not None and queries.shape[1] != dim):
        raise ValueError(
            f"Expected floating queries [q, {'dim' if dim is None else dim}], "
            f"got {queries.dtype} {list(queries.shape)}."
        )
    if limit < 1:
        raise ValueError(f"Expected a limit of at least 1, got {limit}.")
    if probes is not None and probes < 1:
        raise ValueError(f"Expected probes of at least 1 or None, got {probes}.")


def check_keys(ids: torch.Tensor, keys: torch.Tensor, stored: torch.Tensor | None) -> None:
    """Raise ValueError unless ids and keys fit each other and the type and dimension of those stored."""
    if keys.dim() != 2 or ids.shape != keys.shape[:1] or ids.dtype != torch.int64:
        raise ValueError(
            f"Expected ids int64 [n] and keys [n, dim], got {ids.dtype} {list(ids.shape)} and {list(keys.shape)}."
        )
    dtypes = _DTYPES if stored is None else (stored.dtype,)
    if keys.dtype not in dtypes:
        raise ValueError(f"Expected keys of {' or '.join(map(str, dtypes))}, got {keys.dtype}.")
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
    num_unique = len(torch.unique(ids))
    if num_unique != len(ids):
        raise ValueError(f"Expected each id once, got {len(ids)} ids of which {num_unique} differ.")
    # Ids mostly grow, and then a single comparison is enough.
    if len(stored) and int(ids.min()) <= int(stored.max()):
        repeated = ids[torch.isin(ids, stored)]
        if len(repeated):
            raise ValueError(
                f"Expected new ids, got {len(repeated)} that are stored: {repeated[:5].tolist()}."
            )
