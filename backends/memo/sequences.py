"""Sequence matrices: from the code of a window, they regenerate its tokens one after the other.

This is MeMo (https://arxiv.org/abs/2502.12851) with one layer and a window of ``WINDOW_TOKENS`` tokens that begins with the
window's code. The key of a token is the product of the code and of all tokens before it, each rotated by its distance. So each
place of each window has a key of its own, whatever the text repeats: no pair is stored twice, and subtracting the outer
products of a window restores every byte of a matrix that never held it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from memagent.backends.memo.segments import Address
from memagent.backends.neural.memo.capacity import capacity, predicted_accuracy
from memagent.backends.neural.memo.counts import Hasher, WindowCounts
from memagent.backends.neural.memo.reading import binding
from memagent.backends.neural.memo.regeneration import token_confidences
from memagent.backends.neural.memo.settings import MeMoSettings
from memagent.backends.neural.memo.vectors import Vectors, signs
from memagent.backends.neural.memo.windows import token_hash
from memagent.kernels.cmm import accumulate, nearest_codes

_WINDOWS_AT_ONCE = 64
"""Their matrices are copied to float32: 64 MB, if each is in another one."""


@dataclass(frozen=True, slots=True)
class Regenerated:
    """A window as it is regenerated.

    Attributes:
        ids: its tokens; the last one is the end token unless the window is full.
        confidence: lowest probability of a token that it and not the runner-up was stored, 0.5 to 1.
    """

    ids: list[int]
    confidence: float


class SequenceMatrices:
    """Matrices that map the beginning of a window to its next token.

    Args:
        vocabulary: number of tokens, the end token included, which is the last one.
        max_tokens: most tokens of a window.
        seed: of all random vectors.
    """

    def __init__(self, vocabulary: int, max_tokens: int, seed: int) -> None:
        self.matrices: dict[str, Tensor] = {}
        self.pairs: dict[str, int] = {}
        self._vocabulary, self._max_tokens, self._seed = vocabulary, max_tokens, seed
        self._hasher = Hasher(seed)
        self._vectors: dict[int, Vectors] = {}
        self._counts = WindowCounts(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int32))

    def write(self, windows: Sequence[tuple[Address, Sequence[int]]], *, subtract: bool = False) -> None:
        """Add windows to their matrices, or subtract windows that were added before.

        A matrix that holds nothing any more is dropped.
        """
        by_matrix: dict[str, list[tuple[Address, Sequence[int]]]] = {}
        for address, ids in windows:
            by_matrix.setdefault(address.matrix, []).append((address, ids))
        for name, group in by_matrix.items():
            dim = group[0][0].dim
            keys, values = self._pairs(dim, group)
            if name not in self.matrices:
                self.matrices[name] = torch.zeros(dim, dim, dtype=torch.int32)
            accumulate(self.matrices[name], keys, values, subtract=subtract)
            self.pairs[name] = self.pairs.get(name, 0) + (-len(keys) if subtract else len(keys))
            if not self.pairs[name]:
                del self.matrices[name], self.pairs[name]
        hashes = [self._token_hashes[token] for _, ids in windows for token in ids]
        self._counts.add(hashes, subtract=subtract)
        self.__dict__.pop("_token_ids", None)

    def read(self, addresses: Sequence[Address]) -> list[Regenerated]:
        """Regenerate windows, many of one size at once. A window without a matrix is empty."""
        results = [Regenerated([], 0.0) for _ in addresses]
        by_size: dict[int, list[int]] = {}
        for place in sorted(range(len(addresses)), key=lambda place: addresses[place].matrix):
            if addresses[place].matrix in self.matrices:
                by_size.setdefault(addresses[place].dim, []).append(place)
        for dim, places in by_size.items():
            for start in range(0, len(places), _WINDOWS_AT_ONCE):
                group = places[start : start + _WINDOWS_AT_ONCE]
                regenerated = self._read_size(dim, [addresses[place] for place in group])
                for place, result in zip(group, regenerated, strict=True):
                    results[place] = result
        return results

    def load_of(self, name: str) -> float:
        """Return the share of a matrix's capacity that is in use: at 1, one of ten tokens is decoded wrongly."""
        dim = len(self.matrices[name])
        return self.pairs[name] / capacity(dim, dim, max(2, len(self._counts)))

    def accuracy_of(self, name: str) -> float:
        """Return the expected share of a matrix's tokens that are decoded rightly."""
        dim = len(self.matrices[name])
        return predicted_accuracy(self.pairs[name], dim, dim, max(2, len(self._counts)))

    def tensors(self) -> dict[str, Tensor]:
        """Return the state, matrices as int16 where no element is larger."""
        hashes, counts = self._counts.tensors()
        matrices = {f"sequence.{name}": _narrow(matrix) for name, matrix in self.matrices.items()}
        return matrices | {"tokens.hashes": hashes, "tokens.counts": counts}

    def restore(
        self, tensors: Mapping[str, Tensor], pairs: Mapping[str, int], dims: Mapping[str, int]
    ) -> None:
        """Take over a stored state.

        Args:
            tensors: what ``tensors`` returned.
            pairs: by the matrix's name.
            dims: the size of each matrix that the stored segments need.

        Raises:
            ValueError: a matrix is missing, too many, or of another size.
        """
        names = {f"sequence.{name}" for name in dims} | {"tokens.hashes", "tokens.counts"}
        if set(tensors) != names or set(pairs) != set(dims):
            raise ValueError("its sequence matrices are not those that its segments need")
        for name, dim in dims.items():
            matrix = tensors[f"sequence.{name}"]
            if matrix.shape != (dim, dim) or matrix.dtype not in (torch.int16, torch.int32):
                raise ValueError(f"the sequence matrix {name} is not of integers [{dim}, {dim}]")
            if not 1 <= pairs[name] <= dim * dim:
                raise ValueError(f"the sequence matrix {name} cannot hold {pairs[name]} tokens")
            self.matrices[name] = matrix.to(torch.int32)
        hashes, counts = tensors["tokens.hashes"], tensors["tokens.counts"]
        types = (hashes.dtype, counts.dtype) == (torch.int64, torch.int32)
        if not types or hashes.shape != counts.shape or int(counts.sum()) != sum(pairs.values()):
            raise ValueError("its counts of tokens are not those of its sequence matrices")
        if len(counts) and int(counts.min()) < 1:
            raise ValueError("a count of tokens is below 1")
        self.pairs = dict(pairs)
        self._counts = WindowCounts(hashes, counts)

    @cached_property
    def _token_hashes(self) -> list[int]:
        """The hash of every token of the vocabulary."""
        return [token_hash(self._hasher, token) for token in range(self._vocabulary)]

    @cached_property
    def _token_ids(self) -> Tensor:
        """Return the tokens that are stored somewhere, ``[tokens]`` int64."""
        known = [token for token, hashed in enumerate(self._token_hashes) if hashed in self._counts]
        return torch.tensor(known, dtype=torch.int64)

    def _codes(self, dim: int, ids: Sequence[int]) -> Tensor:
        """Return the codes of tokens, ``[len(ids), dim]`` int8."""
        if dim not in self._vectors:
            self._vectors[dim] = Vectors(MeMoSettings(self._vocabulary, dim, layers=1, seed=self._seed))
        return self._vectors[dim].codes(ids)

    def _window_codes(self, dim: int, addresses: Sequence[Address]) -> Tensor:
        return torch.stack([signs(self._seed, address.code, 0, dim) for address in addresses])

    def _pairs(self, dim: int, windows: Sequence[tuple[Address, Sequence[int]]]) -> tuple[Tensor, Tensor]:
        """Return the keys and bound values of all tokens of windows, each ``[tokens, dim]`` int8."""
        lengths = torch.tensor([len(ids) for _, ids in windows])
        keys = self._window_codes(dim, [address for address, _ in windows])
        all_keys, all_values = [], []
        for place in range(int(lengths.max())):
            rows = (lengths > place).nonzero()[:, 0]
            codes = self._codes(dim, [windows[row][1][place] for row in rows.tolist()])
            all_keys.append(keys[rows])
            all_values.append(codes * binding(keys[rows]))
            keys[rows] = keys[rows].roll(1, dims=1) * codes
        return torch.cat(all_keys), torch.cat(all_values)

    def _read_size(self, dim: int, addresses: Sequence[Address]) -> list[Regenerated]:
        """Regenerate windows from matrices of one size; those of one matrix stand in one row of a grid."""
        names = {name: row for row, name in enumerate(dict.fromkeys(item.matrix for item in addresses))}
        matrices = torch.stack([self.matrices[name] for name in names]).to(torch.float32)
        rows = [names[address.matrix] for address in addresses]
        used: Counter[int] = Counter()
        columns = []
        for row in rows:
            columns.append(used[row])
            used[row] += 1
        grid = torch.zeros(len(names), max(columns) + 1, dim)
        noise = torch.tensor([(self.pairs[address.matrix] / dim**2) ** 0.5 for address in addresses])
        token_ids = self._token_ids
        codes = self._codes(dim, token_ids.tolist()).to(torch.float32)
        keys = self._window_codes(dim, addresses).to(torch.float32)
        results: list[Regenerated] = [Regenerated([], 1.0) for _ in addresses]
        active = torch.arange(len(addresses))
        for _ in range(self._max_tokens):
            grid[rows, columns] = keys
            retrieved = torch.bmm(grid, matrices)[rows, columns] / dim * binding(keys)
            scores, best = nearest_codes(retrieved[active], codes, 2)
            confidences = token_confidences(scores / dim, noise[active])
            chosen = token_ids[best[:, 0]]
            for place, token, confidence in zip(
                active.tolist(), chosen.tolist(), confidences.tolist(), strict=True
            ):
                before = results[place]
                results[place] = Regenerated([*before.ids, token], min(before.confidence, confidence))
            going = chosen != self._vocabulary - 1
            active = active[going]
            if not len(active):
                break
            keys[active] = keys[active].roll(1, dims=1) * codes[best[going, 0]]
        return results


def _narrow(matrix: Tensor) -> Tensor:
    """Return a matrix as int16 if its elements fit."""
    return matrix.to(torch.int16) if int(matrix.abs().max()) < 2**15 else matrix
