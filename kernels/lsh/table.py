"""One hash table over stored keys: which planes, which rows lie in which bucket, which buckets to look into."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch

from memagent.kernels import lsh
from memagent.kernels.lsh.torch import bucket_rows

Projection = Literal["principal", "random"]
Probing = Literal["means", "margins"]

# Keys that centre and principal directions are taken from: more do not move them.
_SAMPLE = 1 << 18
_STEP = 1 << 16


@dataclass
class Frame:
    """Where the planes of all tables stand; made when keys are hashed anew, kept while keys are merged in.

    centre: [dim] float32, mean of the keys. Without it every key falls on one side of most planes: attention keys
        share a large constant part (MagicPIG, arXiv 2410.16179). A query's ranking does not change.
    planes: [tables, dim, bits] float32.
    duals: [tables, dim, bits] float32: ``query @ dual`` is what the inner product is expected to lose, halved, when
        the bit differs from the query's side. For random planes this is the plain |projection| of multi-probe LSH.
    """

    centre: torch.Tensor
    planes: torch.Tensor
    duals: torch.Tensor

    @classmethod
    def fit(
        cls,
        keys: torch.Tensor,
        metric: torch.Tensor,
        tables: int,
        bits: int,
        projection: Projection,
        seed: int,
    ) -> Frame:
        """Choose centre and planes for keys [n, dim] under a metric [dim, dim] (symmetric, positive definite)."""
        part = keys[:: max(len(keys) // _SAMPLE, 1)].float()
        centre = part.mean(0)
        part = part - centre
        # A generator on the CPU: the same planes on every device.
        draw = torch.Generator().manual_seed(seed)
        turns = [
            _rotation(table, keys.shape[1], bits, projection, draw).to(keys.device) for table in range(tables)
        ]
        if projection == "principal":
            directions = torch.linalg.eigh(metric @ (part.T @ part / len(part)) @ metric)[1].flip(1)
            turns = [directions @ turn for turn in turns]
        planes = torch.stack([metric @ turn for turn in turns])
        spread = torch.stack([(part @ plane).abs().mean(0) for plane in planes])
        return cls(
            centre, planes, (torch.linalg.pinv(planes).transpose(1, 2) * spread[:, None, :]).contiguous()
        )


def _rotation(table: int, dim: int, bits: int, projection: Projection, draw: torch.Generator) -> torch.Tensor:
    """Return [dim, bits]: for principal planes the mixture of directions, for random ones the planes themselves.

    The first principal table takes the directions as they are; the others turn the leading ones at random, so that
    their buckets cut elsewhere.
    """
    if projection == "principal" and table == 0:
        return torch.eye(dim, bits)
    leading = min(dim, bits + bits // 2) if projection == "principal" else dim
    turn = torch.zeros(dim, bits)
    turn[:leading] = torch.linalg.qr(torch.randn(leading, leading, generator=draw))[0][:, :bits]
    return turn


@dataclass
class Table:
    """Rows of the stored keys by bucket; only buckets that hold keys are listed, B of them.

    codes: [B] int64, ascending bucket numbers.
    offsets: [B + 1] int64 into ``order``.
    order: [n] int32, rows of the stored keys, bucket by bucket; empty where the keys themselves lie in that order.
    means: [B, dim] float32, mean key of a bucket.
    """

    codes: torch.Tensor
    offsets: torch.Tensor
    order: torch.Tensor
    means: torch.Tensor

    @classmethod
    def build(cls, keys: torch.Tensor, codes: torch.Tensor, *, sorted_keys: bool) -> Table:
        """Group keys [n, dim] by their bucket numbers [n]; ``sorted_keys``: they already ascend."""
        order = torch.empty(0, dtype=torch.int32, device=keys.device)
        if not sorted_keys:
            codes, places = codes.sort(stable=True)
            order = places.int()
        present, of_row, sizes = torch.unique_consecutive(codes, return_inverse=True, return_counts=True)
        # Sums in float64: then the order of a device's additions does not reach the float32 mean.
        sums = torch.zeros(len(present), keys.shape[1], dtype=torch.float64, device=keys.device)
        for start in range(0, len(keys), _STEP):
            some = slice(start, start + _STEP)
            part = keys[some] if sorted_keys else keys.index_select(0, order[some])
            sums.index_add_(0, of_row[some], part.double())
        offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
        return cls(present, offsets, order, (sums / sizes[:, None]).float())

    def rows(self, queries: torch.Tensor, probes: int, probing: Probing, dual: torch.Tensor) -> torch.Tensor:
        """Return the rows in the ``probes`` most promising buckets of each query: [q, c] int64, -1 padded."""
        if probing == "means":
            promise = queries @ self.means.T
        else:
            bits = torch.arange(dual.shape[1], device=dual.device)
            signs = ((self.codes[:, None] >> bits & 1) * 2 - 1).float()
            promise = (queries @ dual) @ signs.T
        buckets = promise.topk(min(probes, len(self.codes)), dim=1, sorted=False).indices
        # Ascending buckets are ascending addresses.
        rows = bucket_rows(buckets.sort(dim=1).values, self.offsets)
        if not len(self.order):
            return rows
        return self.order[rows.clamp_min(0)].long().masked_fill_(rows < 0, -1)

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        return {prefix + field.name: getattr(self, field.name) for field in fields(self)}


def hashed(keys: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Return the bucket numbers [tables, n] of keys [n, dim]."""
    parts = [lsh.hash_codes(part.float() - frame.centre, frame.planes) for part in torch.split(keys, _STEP)]
    return torch.cat(parts, dim=1)


def metric_of(sample: torch.Tensor) -> torch.Tensor:
    """Return the square root of the second moment of queries [m, dim], its smallest parts lifted off zero: [dim, dim].

    Keys times it differ as far as the inner products such queries have with them differ.

    Raises:
        ValueError: no queries, or not finite ones.
    """
    if sample.dim() != 2 or not len(sample) or not sample.isfinite().all():
        raise ValueError(f"Expected sample queries [m, dim], finite, at least one, got {list(sample.shape)}.")
    values, vectors = torch.linalg.eigh(sample.T @ sample / len(sample))
    root: torch.Tensor = vectors * values.clamp_min(float(values.max()) * 1e-6).sqrt() @ vectors.T
    return root
