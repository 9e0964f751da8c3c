"""A linear associative memory of fixed size that learns texts word by word.

A text is stored as associations from the three words before a word to that word, given the text's embedding ``e``. The
key of a word binds the embedding to its context (binding by multiplication: Gayler, Multiplicative binding, 1998; compare
Plate, Holographic reduced representations, IEEE Transactions on Neural Networks 6(3), 1995):

    k_t = f(e) * s(w_{t-1}, w_{t-2}, w_{t-3})      s: random signs that belong to these words
    f(e) = (e, ..., e, e * roll(e, 1) sqrt(d), ..., e * roll(e, r/4) sqrt(d)) / |...|

Two keys with the same context have the inner product (3 c + c^2) / 4, where c is the cosine of their embeddings; keys of
different contexts have about 0. The products ``e * roll(e, j)`` separate embeddings that are somewhat similar, so that more
texts than ``d`` may continue differently after the same words. The value is a random code of the word.

The memory M is a matrix, written by one step of gradient descent for each text (Titans, arXiv 2501.00663, equations 12 and
13): ``M_t = (1 - alpha) M_{t-1} - theta grad ||k_t M_{t-1} - v_t||^2 / 2``. theta is 1, so that one write stores a text.
There is no momentum (equation 14): it would carry a step beyond its target.

`decoding` reads texts back. The matrix never grows: beyond some tens of thousands of words, the oldest texts that were not
written again are the first to become unreadable.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import shake_256
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from memagent.backends.titans.write_statistics import WriteStatistics

CONTEXT_WORDS = 3
END_OF_TEXT = ""
_VALUE_SIZE = 256
# Contexts of one matrix product.
_BATCH = 64
# A character of a script without spaces is a word; a word of more than 24 letters is several.
_WORD = re.compile(r"\s*[぀-ヿ㐀-鿿가-힣]|\s*\w{1,24}|\s*[^\w\s]")


def split_words(text: str) -> list[str]:
    """Split a text into words and punctuation marks, each with the space before it.

    Returns:
        Words whose concatenation is the stripped text.
    """
    return _WORD.findall(text.strip())


class AssociativeMemory:
    """Stores texts in one matrix, each under its embedding.

    Args:
        dimension: Of the embeddings.
        key_expansion: Size of a key in embeddings, ``r`` above, 1 or more; a quarter of them are products. The matrix has
            ``key_expansion * dimension * 256`` float32 weights.
        alpha: Share of the memory that each write forgets, 0 to below 1.
        seed: Of the random signs and codes.
    """

    def __init__(self, dimension: int, key_expansion: int, alpha: float, seed: int) -> None:
        self._key_expansion = key_expansion
        self._alpha = alpha
        self._seed = seed
        self._weights = torch.zeros(key_expansion * dimension, _VALUE_SIZE)
        # Dictionaries without values: sets that keep their order.
        self._vocabulary: dict[str, None] = {}
        self._first_words: dict[str, None] = {}
        self._coded_words: list[str] = []
        self._codes = torch.zeros(0, _VALUE_SIZE)

    @property
    def bytes(self) -> int:
        """The size of the matrix, in bytes."""
        return self._weights.nbytes

    @property
    def vocabulary(self) -> Sequence[str]:
        """Every word that was written, in the order of the first occurrences."""
        return list(self._vocabulary)

    @property
    def first_words(self) -> Sequence[str]:
        """Every word that a text begins with, in the order of the first occurrences."""
        return list(self._first_words)

    def write(self, embedding: Tensor, text: str) -> WriteStatistics:
        """Store a text.

        Args:
            embedding: ``[dimension]``, of length 1.
            text: Any text.

        Returns:
            Means over the text's words.
        """
        text_words = [*split_words(text), END_OF_TEXT]
        self._vocabulary |= dict.fromkeys(text_words)
        self._first_words[text_words[0]] = None
        keys = self.encode_keys(embedding, [text_words[:position] for position in range(len(text_words))])
        values = torch.stack([self._code(word) for word in text_words])
        if self._alpha:
            self._weights *= 1 - self._alpha
        errors = values - keys @ self._weights
        # Words after equal contexts of one text share a key: their steps must add up to one.
        contexts = [
            tuple(text_words[max(0, position - CONTEXT_WORDS) : position])
            for position in range(len(text_words))
        ]
        counts = Counter(contexts)
        theta = torch.tensor([1 / counts[context] for context in contexts])
        self._weights.addmm_(keys.T, theta[:, None] * errors)
        remaining_errors = values - keys @ self._weights
        before, after = (float(error.square().sum(1).mean()) for error in (errors, remaining_errors))
        return WriteStatistics(before, before - after)

    def next_words(
        self, embedding: Tensor, contexts: Sequence[Sequence[str]], count: int
    ) -> Iterator[list[tuple[str, float]]]:
        """Yield the words that best continue each context in the texts stored under an embedding.

        Args:
            embedding: ``[dimension]``, of length 1; texts of similar embeddings answer too.
            contexts: The words so far, of which the last three count.
            count: The number of words for each context.

        Yields:
            Words with scores, best first. A score is about ``(3 c + c^2) / 4``, where c is the cosine of ``embedding`` and the
            embedding of the text that continues so: 1 for the text itself, below 0.1 for chance.
        """
        self._update_codes()
        for start in range(0, len(contexts), _BATCH):
            batch = contexts[start : start + _BATCH]
            scores = self.encode_keys(embedding, batch) @ self._weights @ self._codes.T
            best = scores.topk(min(count, len(self._coded_words)), dim=1)
            for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                yield [
                    (self._coded_words[index], value) for index, value in zip(indices, values, strict=True)
                ]

    def encode_keys(self, embedding: Tensor, contexts: Sequence[Sequence[str]]) -> Tensor:
        """Return the keys of the words that follow some contexts.

        Args:
            embedding: ``[dimension]``, of length 1.
            contexts: The words before, of which the last three count; fewer at the beginning of a text.

        Returns:
            ``[len(contexts), key_expansion * dimension]``, rows of length 1.
        """
        size = self._key_expansion * len(embedding)
        expanded = self._expand(embedding)
        rows = []
        for context in contexts:
            signs = _random_signs(f"{self._seed} key", size)
            for distance, word in enumerate(reversed(context[-CONTEXT_WORDS:]), start=1):
                signs = signs * np.roll(_random_signs(f"{self._seed} key {word}", size), distance)
            rows.append(signs)
        keys: Tensor = expanded * torch.from_numpy(np.stack(rows))
        return keys

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a stored state, which `vocabulary` and `first_words` complete."""
        return {"weights": self._weights}

    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Iterable[str], first_words: Iterable[str]
    ) -> None:
        """Replace the state with a stored one.

        Args:
            tensors: From `tensors`.
            vocabulary: From the property of that name.
            first_words: From the property of that name.

        Raises:
            KeyError: There are no weights.
            ValueError: The weights have another shape than this memory's.
        """
        if tensors["weights"].shape != self._weights.shape:
            raise ValueError(
                f"weights are expected to be {list(self._weights.shape)} rather than {list(tensors['weights'].shape)}"
            )
        self._weights = tensors["weights"]
        self._vocabulary, self._first_words = dict.fromkeys(vocabulary), dict.fromkeys(first_words)
        self._coded_words, self._codes = [], self._codes[:0]

    def _expand(self, embedding: Tensor) -> Tensor:
        """Return f(e), ``[key_expansion * dimension]``, of length 1."""
        product_count = self._key_expansion // 4
        products = [
            embedding * embedding.roll(shift) * len(embedding) ** 0.5 for shift in range(1, product_count + 1)
        ]
        return normalize(torch.cat([*[embedding] * (self._key_expansion - product_count), *products]), dim=0)

    def _update_codes(self) -> None:
        """Add the codes of new words, so that ``_codes`` is ``[len(vocabulary), 256]``."""
        if len(self._coded_words) < len(self._vocabulary):
            new = list(islice(self._vocabulary, len(self._coded_words), None))
            self._coded_words += new
            self._codes = torch.cat([self._codes, torch.stack([self._code(word) for word in new])])

    def _code(self, word: str) -> Tensor:
        """Return the random code of a word, ``[256]``, of length 1; the same for every memory of this seed."""
        code: Tensor = (
            torch.from_numpy(_random_signs(f"{self._seed} value {word}", _VALUE_SIZE)) / _VALUE_SIZE**0.5
        )
        return code


@lru_cache(maxsize=1024)
def _random_signs(name: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    """Return ``count`` random signs that belong to a name, the same on every machine."""
    digest = np.frombuffer(shake_256(name.encode("utf-8", "replace")).digest(-(-count // 8)), np.uint8)
    return np.unpackbits(digest)[:count].astype(np.int8) * 2 - 1
