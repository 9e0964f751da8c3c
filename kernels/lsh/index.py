"""The index: hashed keys in the order of their buckets, and a short tail of new keys that is searched exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memagent.kernels import lsh
from memagent.kernels.lsh.checks import check_keys, check_new, check_query
from memagent.kernels.lsh.eager import exact_top, pad_top
from memagent.kernels.lsh.table import Frame, Table

# Up to so many keys, exact search is faster than hashing.
EXACT = 65_536
# A tail longer than this share of the hashed keys is merged into them.
_TAIL = 1 / 64
_PARTS = {"keys", "ids", "tail", "tail_ids"}
_TABLE = {"centre", "planes", "fitted", "offsets", "means"}


@dataclass(frozen=True)
class Hits:
    """The result of a search.

    Attributes:
        scores: [q, limit] float32, exact inner products, descending, higher is nearer; ``-inf`` padded.
        ids: [q, limit] int64, -1 padded.
        touched: share (0 to 1) of the stored keys whose inner product was computed, mean over the queries. The
            comparisons with the buckets' mean keys are not counted: see `LSHIndex.buckets`.
    """

    scores: torch.Tensor
    ids: torch.Tensor
    touched: float


class LSHIndex:
    """Finds stored keys with the largest inner products with queries, by hashing; scores are exact.

    Keys are centred and hashed by the signs of projections (Charikar 2002). A query probes several buckets (multi-probe,
    Lv et al. 2007); what lies there is compared exactly. Attention's queries and keys have different distributions, the
    best key stands at a cosine of about 0.25 to its query, and plain hashing fails: of 200,000 real keys
    (Qwen2.5-Coder-0.5B, layer 3), 14 random planes probed by |projection| found 0.46 of the top 64 in 10 % of the keys,
    four such tables 0.41. Two changes raise this: planes along the principal directions, and probing by the inner product
    with each bucket's mean key (together 0.92). The norm augmentation for inner products (Neyshabur and Srebro 2015)
    made it worse (0.24) and is left out.

    Up to `EXACT` keys nothing is hashed and answers are exact. The same calls in the same order give the same answers.

    Args:
        device: where keys are kept and searched.
    """

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._keys, self._ids = self._empty()
        self._tail, self._tail_ids = self._empty()
        # None while there are no hashed keys.
        self._table: Table | None = None

    def __len__(self) -> int:
        return len(self._ids) + len(self._tail_ids)

    @property
    def buckets(self) -> int:
        """How many buckets hold keys; every query is compared with the mean key of each."""
        return 0 if self._table is None else len(self._table.means)

    def insert(self, ids: torch.Tensor, keys: torch.Tensor) -> None:
        """Store keys. A few are cheap; the tail is merged each time it exceeds a 64th of the stored keys.

        Args:
            ids: [n] int64, none of them stored already or negative.
            keys: [n, dim] bfloat16, float16 or float32, kept in the type of the first ones.

        Raises:
            ValueError: shapes, types or dimension that do not fit, an id twice, or a number that is not finite.
        """
        check_keys(ids, keys, self._tail if len(self) else None)
        ids, keys = ids.to(self.device), keys.detach().to(self.device)
        check_new(ids, torch.cat([self._ids, self._tail_ids]))
        if not len(self):
            self._keys = self._tail = keys[:0].clone()
        self._tail = torch.cat([self._tail, keys])
        self._tail_ids = torch.cat([self._tail_ids, ids])
        if len(self) > EXACT and len(self._tail) > max(EXACT // 2, len(self._ids) * _TAIL):
            self._merge(None if self._table is None else self._table.frame)

    def delete(self, ids: torch.Tensor) -> None:
        """Remove keys, so that no copy stays here or in the state. Costs a pass over all keys.

        The planes stay those of the last hashing, even if keys that they were fitted to are removed.

        Args:
            ids: [n] int64, each of them stored.

        Raises:
            ValueError: an id is not stored; nothing is removed then.
        """
        ids = torch.unique(ids.to(self.device))
        removed, tail_removed = torch.isin(self._ids, ids), torch.isin(self._tail_ids, ids)
        if int(removed.sum() + tail_removed.sum()) != len(ids):
            missing = ids[~torch.isin(ids, torch.cat([self._ids, self._tail_ids]))]
            raise ValueError(
                f"Expected ids that are stored, got {len(missing)} others: {missing[:5].tolist()}."
            )
        self._tail, self._tail_ids = self._tail[~tail_removed], self._tail_ids[~tail_removed]
        if self._table is not None and removed.any():
            self._keys, self._ids = self._keys[~removed], self._ids[~removed]
            self._rehash(self._table.frame)

    def query(self, queries: torch.Tensor, limit: int, *, probes: int | None = None) -> Hits:
        """Find the ``limit`` keys with the largest inner products with each of the queries.

        Args:
            queries: [q, dim], floating.
            limit: how many a query.
            probes: buckets that a query probes; None: by their number. More probes raise recall and cost.

        Raises:
            ValueError: the queries' shape or type, or a limit or probes below 1.
        """
        check_query(queries, limit, probes, self._tail.shape[1] if len(self) else None)
        queries = queries.detach().to(self.device).float()
        scores, places = exact_top(queries, self._tail, limit)
        ids = _take(places, self._tail_ids)
        touched = float(len(self._tail) * len(queries))
        if self._table is not None:
            rows = self._table.rows(queries, probes)
            touched += float((rows >= 0).sum())
            hashed_scores, columns = pad_top(lsh.rerank(queries, self._keys, rows), limit)
            rows = _take(columns, rows)
            scores = torch.cat([scores, hashed_scores], dim=1)
            ids = torch.cat([ids, _take(rows, self._ids)], dim=1)
            scores, columns = pad_top(scores, limit)
            ids = _take(columns, ids)
        return Hits(scores, ids, touched / max(len(queries) * len(self), 1))

    def state(self) -> dict[str, torch.Tensor]:
        """Return all tensors, for safetensors. They share memory with the index."""
        state = {"keys": self._keys, "ids": self._ids, "tail": self._tail, "tail_ids": self._tail_ids}
        return state if self._table is None else state | self._table.state()

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor], device: torch.device | str = "cpu") -> LSHIndex:
        """Return an index from what `state` returned; its answers are the same.

        Raises:
            ValueError: a part is missing or unknown.
        """
        expected = _PARTS | _TABLE if len(state.get("ids", ())) else _PARTS
        if state.keys() != expected:
            raise ValueError(
                f"Expected the state of an LSHIndex, {', '.join(sorted(expected))}, got {', '.join(sorted(state))}."
            )
        parts = {name: tensor.to(device) for name, tensor in state.items()}
        index = cls(device=device)
        index._keys, index._ids = parts["keys"], parts["ids"]
        index._tail, index._tail_ids = parts["tail"], parts["tail_ids"]
        if len(index._ids):
            index._table = Table.from_state(parts)
        return index

    def _empty(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.empty(0, 0, device=self.device), torch.empty(0, dtype=torch.int64, device=self.device)

    def _merge(self, frame: Frame | None) -> None:
        """Hash the tail with the other keys; fit new planes if their number has doubled or halved since the last fit."""
        self._keys, self._ids = torch.cat([self._keys, self._tail]), torch.cat([self._ids, self._tail_ids])
        self._tail, self._tail_ids = self._keys[:0].clone(), self._ids[:0].clone()
        if frame is None or not frame.fits(len(self._ids)):
            frame = Frame.fit(self._keys)
        self._hash(frame)

    def _hash(self, frame: Frame) -> None:
        """Sort the keys by bucket, and list the buckets."""
        codes, order = frame.codes(self._keys).sort(stable=True)
        self._keys, self._ids = self._keys[order], self._ids[order]
        self._table = Table.build(frame, self._keys, codes)

    def _rehash(self, frame: Frame) -> None:
        """After hashed keys were removed: hash the remaining ones, or search them exactly if they are few."""
        if len(self) <= EXACT:
            self._tail = torch.cat([self._keys, self._tail])
            self._tail_ids = torch.cat([self._ids, self._tail_ids])
            self._keys, self._ids = self._tail[:0].clone(), self._tail_ids[:0].clone()
            self._table = None
        elif frame.fits(len(self._ids)):
            self._hash(frame)
        else:
            self._merge(frame)


def _take(places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the values at places [q, c] of values [n], or [q, n] for one list per query; -1 stays -1."""
    if not values.numel():
        return torch.full_like(places, -1)
    real = places.clamp_min(0)
    selection = values[real] if values.dim() == 1 else values.gather(1, real)
    return selection.masked_fill(places < 0, -1)
