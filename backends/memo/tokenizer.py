"""Bytes to tokens and back: a byte-level BPE, so that every text is regenerated with its case, punctuation and emoji.

``benchmarks/fit_memo_tokenizer.py`` trains it on WikiText-2 (Merity et al. 2016, CC BY-SA).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("tokenizer.json")


class ByteTokenizer:
    """Encodes texts without any loss and without control tokens.

    Attributes:
        end: The id that ends a text; no text contains it.
        size: Number of ids, ``end`` included.
    """

    def __init__(self) -> None:
        self._tokenizer = _load()
        self.end: int = self._tokenizer.get_vocab_size()
        self.size = self.end + 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text


@cache
def digest() -> str:
    """Return the SHA-256 of the tokenizer's file: token ids depend on it."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()


@cache
def _load() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(FILE))
