"""The hash table over stored keys: the planes, the rows of each bucket, and the buckets that a query probes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from memagent.kernels import lsh
from memagent.kernels.lsh.eager import bucket_rows

# Keys per bucket number; a third to a half of the numbers occur among real keys. Comparing the bucket means is one
# streaming product, cheaper than fetching scattered keys: hence small buckets.
_PER_BUCKET = 4
_MAX_BITS = 22
# Buckets probed by default: this times the square root of their number. Recall@64 of about 0.95 at 1e5 and 1e6 real keys,
# read off between two measured settings each.
_PROBED = 5.0
# Most keys that centre and principal directions are estimated from: more do not change them.
_SAMPLE = 1 << 18
_STEP = 1 << 16


@dataclass(frozen=True)
class Frame:
    """Centre and hyperplanes of the hash, fitted to the stored keys and kept while new keys are merged.

    Attributes:
        centre: [dim] float32, mean of the keys. Without it every key falls on one side of most planes: attention keys
            share a large constant part (MagicPIG, arXiv 2410.16179). A query's ranking does not change.
        planes: [dim, bits] float32, the keys' principal directions, those of the largest variance first.
        fitted: [1] int64, number of keys that they were fitted to.
    """

    centre: torch.Tensor
    planes: torch.Tensor
    fitted: torch.Tensor

    @classmethod
    def fit(cls, keys: torch.Tensor) -> Frame:
        """Fit centre and planes to keys [n, dim], n at least 8."""
        count, dim = keys.shape
        part = keys[:: max(count // _SAMPLE, 1)].float()
        centre = part.mean(0)
        part = part - centre
        bits = min(round(math.log2(count / _PER_BUCKET)), _MAX_BITS, dim)
        directions = torch.linalg.eigh(part.T @ part / len(part))[1].flip(1)
        return cls(centre, directions[:, :bits].contiguous(), torch.tensor([count], device=keys.device))

    def fits(self, count: int) -> bool:
        """Return whether ``count`` is between half of and twice the number of keys that the planes were fitted to."""
        return bool(self.fitted / 2 <= count <= self.fitted * 2)

    def codes(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the bucket numbers [n] int64 of keys [n, dim]."""
        parts = torch.split(keys, _STEP)
        return torch.cat([lsh.hash_codes(part.float() - self.centre, self.planes) for part in parts])


@dataclass(frozen=True)
class Table:
    """Rows of the stored keys by bucket; only the B buckets that hold keys are listed.

    Attributes:
        frame: the planes between the buckets.
        offsets: [B + 1] int64; bucket i holds the rows ``offsets[i]`` to ``offsets[i + 1] - 1`` of the keys.
        means: [B, dim] float32, mean key of each bucket.
    """

    frame: Frame
    offsets: torch.Tensor
    means: torch.Tensor

    @classmethod
    def build(cls, frame: Frame, keys: torch.Tensor, codes: torch.Tensor) -> Table:
        """Group keys [n, dim] by their bucket numbers [n], which ascend."""
        _, bucket_of_row, sizes = torch.unique_consecutive(codes, return_inverse=True, return_counts=True)
        # Sums in float64, so that the order of a device's additions does not change the float32 mean.
        sums = torch.zeros(len(sizes), keys.shape[1], dtype=torch.float64, device=keys.device)
        for start in range(0, len(keys), _STEP):
            rows = slice(start, start + _STEP)
            sums.index_add_(0, bucket_of_row[rows], keys[rows].double())
        offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
        return cls(frame, offsets, (sums / sizes[:, None]).float())

    def rows(self, queries: torch.Tensor, probes: int | None) -> torch.Tensor:
        """Return the rows in the buckets whose means have the largest products with each query.

        Args:
            queries: [q, dim] float32.
            probes: buckets that a query probes, at most all; None: by their number.

        Returns:
            [q, c] int64, each row once, ascending, -1 padded.
        """
        probes = min(probes or math.ceil(_PROBED * math.sqrt(len(self.means))), len(self.means))
        buckets = (queries @ self.means.T).topk(probes, dim=1, sorted=False).indices
        # Ascending buckets are ascending addresses.
        return bucket_rows(buckets.sort(dim=1).values, self.offsets)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the parts, as `from_state` takes them; they share memory with the table."""
        return {**vars(self.frame), "offsets": self.offsets, "means": self.means}

    @classmethod
    def from_state(cls, parts: dict[str, torch.Tensor]) -> Table:
        """Return the table with these parts.

        Raises:
            KeyError: one is missing.
        """
        frame = Frame(parts["centre"], parts["planes"], parts["fitted"])
        return cls(frame, parts["offsets"], parts["means"])
