"""The index: keys in bucket order, a short tail that is searched exactly, and what is done when either grows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from memagent.kernels import lsh
from memagent.kernels.lsh.checks import check_keys, check_new, check_settings
from memagent.kernels.lsh.table import Frame, Probing, Projection, Table, hashed, metric_of
from memagent.kernels.lsh.torch import exact_top, pad_top

# So many keys are searched exactly sooner than their buckets are found.
EXACT = 65_536
# A tail longer than this share of the hashed keys is merged into them.
_TAIL = 1 / 64
# Without `bits`, there is a bucket number for so many keys; a third to a half of the numbers occur among real keys.
# Comparing the bucket means is one streaming product, cheaper than fetching scattered keys: hence small buckets.
_PER_BUCKET = 4
_MAX_BITS = 22
# Without `probes`, this times the root of the number of buckets: recall@64 of about 0.95 at 1e5 and 1e6 real keys, read off
# between two measured settings each.
_PROBED = 5.0


@dataclass(frozen=True)
class Hits:
    """What a search found.

    scores: [q, limit] float32, exact inner products, descending, higher is nearer; ``-inf`` padded.
    ids: [q, limit] int64, -1 padded.
    touched: share (0 to 1) of the stored keys whose inner product was computed, mean over the queries. The means of
        the buckets that were compared to find them are not in it: see `LSHIndex.buckets`.
    """

    scores: torch.Tensor
    ids: torch.Tensor
    touched: float


class LSHIndex:
    """Finds stored keys with the largest inner products with queries, by hashing; scores are exact.

    Keys are centred and hashed by the signs of projections (Charikar 2002). A query probes several buckets of each
    table (multi-probe, Lv et al. 2007); what lies there is compared exactly. Attention's queries and keys have
    different distributions, the best key stands at a cosine of about 0.25 to its query, and plain hashing fails: of
    200,000 real keys (Qwen2.5-Coder-0.5B, layer 3), 14 random planes probed by |projection| find 0.46 of the top 64 in
    10 % of the keys, four such tables 0.41. Two changes mend it: planes along the principal directions, and probing by
    the inner product with each bucket's mean key (together 0.92). The norm
    augmentation for inner products (Neyshabur and Srebro 2015) made it worse (0.24) and is left out.

    Up to `EXACT` keys nothing is hashed and answers are exact. The same calls in the same order give the same answers.

    Args:
        tables: hash tables; each beyond the first costs 4 bytes a key. More buckets help more than more tables.
        bits: planes of a table; None: by the number of keys, when they are hashed anew.
        probes: buckets of each table a query looks into; None: by their number. More: higher recall, more touched.
        seed: of the random planes.
        device: where keys are kept and searched.
        sample: [m, dim] typical queries, or None. Planes are then laid so that buckets differ in the inner products
            such queries have with their keys. Of use with few buckets (small indexes); with 100,000 it did not help.
        projection: "principal" or "random" planes.
        probing: "means", by the bucket's mean key, or "margins", by the projections on the planes between.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        *,
        tables: int = 1,
        bits: int | None = None,
        probes: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        sample: torch.Tensor | None = None,
        projection: Projection = "principal",
        probing: Probing = "means",
    ) -> None:
        check_settings(tables, bits, probes, projection, probing)
        self.tables, self.bits, self.probes, self.seed = tables, bits, probes, seed
        self.device = torch.device(device)
        self.projection, self.probing = projection, probing
        self._metric = None if sample is None else metric_of(sample.to(self.device).float())
        self._keys, self._ids = self._nothing()
        self._tail, self._tail_ids = self._nothing()
        self._frame: Frame | None = None
        self._hashed: list[Table] = []
        self._size_at_fit = 0

    def __len__(self) -> int:
        return len(self._ids) + len(self._tail_ids)

    @property
    def buckets(self) -> int:
        """How many buckets hold keys, all tables together; each one's mean is compared with every query."""
        return sum(len(table.codes) for table in self._hashed)

    def insert(self, ids: torch.Tensor, keys: torch.Tensor) -> None:
        """Store keys; cheap for few, while the tail is merged once for every 64th of the keys stored.

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
            self._merge()

    def delete(self, ids: torch.Tensor) -> None:
        """Remove keys: no copy of them stays, here or in the state. Costs a pass over all keys.

        Where the planes stand is kept from the last hashing, also when keys that had a part in it go.

        Args:
            ids: [n] int64, each of them stored.

        Raises:
            ValueError: an id is not stored; nothing is removed then.
        """
        ids = torch.unique(ids.to(self.device))
        gone, tail_gone = torch.isin(self._ids, ids), torch.isin(self._tail_ids, ids)
        found = int(gone.sum() + tail_gone.sum())
        if found != len(ids):
            missing = ids[~torch.isin(ids, torch.cat([self._ids, self._tail_ids]))]
            raise ValueError(
                f"Expected ids that are stored, got {len(missing)} others: {missing[:5].tolist()}."
            )
        self._tail, self._tail_ids = self._tail[~tail_gone], self._tail_ids[~tail_gone]
        if gone.any():
            self._keys, self._ids = self._keys[~gone], self._ids[~gone]
            self._settle()

    def query(self, queries: torch.Tensor, limit: int) -> Hits:
        """Find the ``limit`` keys with the largest inner products with each of the queries [q, dim].

        Raises:
            ValueError: the queries' shape, or a limit below 1.
        """
        if (
            queries.dim() != 2
            or not queries.is_floating_point()
            or (len(self) and queries.shape[1] != self._dim)
        ):
            raise ValueError(
                f"Expected floating queries [q, {self._dim if len(self) else 'dim'}], "
                f"got {queries.dtype} {list(queries.shape)}."
            )
        if limit < 1:
            raise ValueError(f"Expected a limit of at least 1, got {limit}.")
        queries = queries.detach().to(self.device).float()
        scores, places = (
            exact_top(queries, self._tail, limit) if len(self._tail) else pad_top(queries[:, :0], limit)
        )
        ids = _named(places, self._tail_ids)
        touched = float(len(self._tail) * len(queries))
        if self._frame is not None:
            rows = self._candidates(queries, self._frame)
            touched += float((rows >= 0).sum())
            found, columns = pad_top(lsh.rerank(queries, self._keys, rows), limit)
            rows = _named(columns, rows)
            scores = torch.cat([scores, found], dim=1)
            ids = torch.cat([ids, _named(rows, self._ids)], dim=1)
            scores, columns = pad_top(scores, limit)
            ids = _named(columns, ids)
        return Hits(scores, ids, touched / max(len(queries) * len(self), 1))

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything, settings too, as tensors for safetensors. They share memory with the index."""
        numbers = [
            self.tables,
            -1 if self.bits is None else self.bits,
            -1 if self.probes is None else self.probes,
            self.seed,
            int(self.projection == "random"),
            int(self.probing == "margins"),
            self._size_at_fit,
        ]
        state = {"settings": torch.tensor(numbers), "keys": self._keys, "ids": self._ids}
        state |= {"tail": self._tail, "tail_ids": self._tail_ids}
        if self._metric is not None:
            state["metric"] = self._metric
        if self._frame is not None:
            frame = self._frame
            state |= {"centre": frame.centre, "planes": frame.planes, "duals": frame.duals}
        for number, table in enumerate(self._hashed):
            state |= table.tensors(f"table{number}.")
        return state

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor], device: torch.device | str = "cpu") -> LSHIndex:
        """Return the index whose `state` this was; it answers as that one did.

        Raises:
            ValueError: a part is missing.
        """
        parts = {name: tensor.to(device) for name, tensor in state.items()}
        try:
            tables, bits, probes, seed, random, margins, size = parts["settings"].tolist()
            index = cls(
                tables=tables,
                bits=None if bits < 0 else bits,
                probes=None if probes < 0 else probes,
                seed=seed,
                device=device,
                projection="random" if random else "principal",
                probing="margins" if margins else "means",
            )
            index._metric = parts.get("metric")
            index._keys, index._ids = parts["keys"], parts["ids"]
            index._tail, index._tail_ids = parts["tail"], parts["tail_ids"]
            if "centre" in parts:
                index._frame = Frame(parts["centre"], parts["planes"], parts["duals"])
                names = ("codes", "offsets", "order", "means")
                index._hashed = [
                    Table(*(parts[f"table{number}.{name}"] for name in names)) for number in range(tables)
                ]
            index._size_at_fit = size
        except KeyError as error:
            raise ValueError(f"Expected the state of an LSHIndex, got one without {error}.") from error
        return index

    @property
    def _dim(self) -> int:
        return self._tail.shape[1]

    def _nothing(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.empty(0, 0, device=self.device), torch.empty(0, dtype=torch.int64, device=self.device)

    def _candidates(self, queries: torch.Tensor, frame: Frame) -> torch.Tensor:
        """Return the rows [q, c] worth comparing, each once, -1 padded."""
        found = []
        for table, dual in zip(self._hashed, frame.duals, strict=True):
            usual = math.ceil(_PROBED * math.sqrt(len(table.codes)) / self.tables)
            found.append(table.rows(queries, self.probes or usual, self.probing, dual))
        rows = torch.cat(found, dim=1)
        if len(self._hashed) > 1:
            rows = rows.sort(dim=1).values
            rows[:, 1:].masked_fill_(rows[:, 1:] == rows[:, :-1].clone(), -1)
        return rows

    def _merge(self) -> None:
        """Take the tail among the hashed keys; choose new planes where these have doubled, or halved, since."""
        self._keys, self._ids = torch.cat([self._keys, self._tail]), torch.cat([self._ids, self._tail_ids])
        self._tail, self._tail_ids = self._keys[:0].clone(), self._ids[:0].clone()
        count = len(self._ids)
        if self._frame is None or not self._size_at_fit / 2 <= count <= self._size_at_fit * 2:
            bits = self.bits or min(round(math.log2(count / _PER_BUCKET)), _MAX_BITS)
            metric = torch.eye(self._dim, device=self.device) if self._metric is None else self._metric
            self._frame = Frame.fit(
                self._keys, metric, self.tables, min(bits, self._dim), self.projection, self.seed
            )
            self._size_at_fit = count
        self._hash(self._frame)

    def _hash(self, frame: Frame) -> None:
        """Bring the keys into the order of the first table's buckets, and list the buckets of all."""
        codes = hashed(self._keys, frame)
        order = codes[0].sort(stable=True).indices
        self._keys, self._ids, codes = self._keys[order], self._ids[order], codes[:, order]
        self._hashed = [
            Table.build(self._keys, of_table, sorted_keys=number == 0)
            for number, of_table in enumerate(codes)
        ]

    def _settle(self) -> None:
        """After hashed keys went: hash what is left, or search it exactly from now on."""
        if len(self) <= EXACT:
            self._tail = torch.cat([self._keys, self._tail])
            self._tail_ids = torch.cat([self._ids, self._tail_ids])
            self._keys, self._ids = self._tail[:0].clone(), self._tail_ids[:0].clone()
            self._frame, self._hashed, self._size_at_fit = None, [], 0
        elif self._frame is None or len(self._ids) < self._size_at_fit / 2:
            self._merge()
        else:
            self._hash(self._frame)


def _named(places: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
    """Look places [q, c] up in names, [n] or one list a query [q, n]; -1 stays -1."""
    if not names.numel():
        return torch.full_like(places, -1)
    found = names[places.clamp_min(0)] if names.dim() == 1 else names.gather(1, places.clamp_min(0))
    return found.masked_fill(places < 0, -1)
