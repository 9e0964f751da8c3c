"""Between texts and latents: the local model reads, the autoencoder compresses; from latents come keys, words and texts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch

from memagent.backends.neural.context_bank.autoencoder import LatentAutoencoder, nearest_tokens
from memagent.backends.protocol import LocalModel, Vectors
from memagent.backends.records import Turn
from memagent.backends.shared.attention.chunks import TokenSpan, TurnTokenizer
from memagent.backends.shared.attention.hidden_states import HiddenStateReader
from memagent.backends.shared.tokens import TextTokenizer
from memagent.backends.shared.words import content_words

_EXACT = 0.02
"""Squared distance per component that a code usually keeps from that of its token. The norm of a code is larger, of padding smaller."""
_MAX_DISTANCE = 0.04
"""A token that is farther from its code was not kept. Of two models and 120 texts, the farthest that was decoded rightly had 0.025."""

_TABLE_CODES: WeakKeyDictionary[LatentAutoencoder, torch.Tensor] = WeakKeyDictionary()
"""The codes of the vocabulary, by the autoencoder; all memories of a process share them."""


class LatentCodec:
    """Encodes turns and questions as latents of one model, and reads latents.

    Attributes:
        key_size: leading components of a latent that are its key.
        size: components of a latent.

    Args:
        local: the model.
        autoencoder: trained for it.

    Raises:
        SettingError: the model is of no supported family.
    """

    def __init__(self, local: LocalModel, autoencoder: LatentAutoencoder) -> None:
        config = autoencoder.config
        self.key_size, self.size = config.key_size, config.hidden_size
        self._codes = slice(config.key_size, config.key_size + config.ratio * config.token_size)
        self._ratio, self._token_size = config.ratio, config.token_size
        self._autoencoder = autoencoder
        self._reader = HiddenStateReader(local)
        self._turns = TurnTokenizer(local.tokenizer)
        self._tokenizer = TextTokenizer(local.tokenizer)
        self._decode_ids = local.tokenizer.decode

    def encode(self, turn: Turn) -> Vectors:
        """Return the latents of a turn, float32 ``[latents, size]``."""
        spans = [
            self._turns.continuation_span(chunk) if chunk.part else self._turns.chunk_span(chunk, [])
            for chunk in self._turns.split(turn)
        ]
        latents = [self._autoencoder.encode(states.first, states.last) for states in self._reader.read(spans)]
        return np.asarray(torch.cat(latents).numpy(), np.float32)

    def question_key(self, question: str) -> Vectors:
        """Return the key of a question, float32 ``[key_size]``: the mean over its tokens."""
        span = self._turns.question(question)
        (states,) = self._reader.read([span])
        latents = self._autoencoder.encode(states.first, states.last)
        return np.asarray(latents[:, : self.key_size].sum(0).numpy() / len(span.ids), np.float32)

    def codes(self, latents: Vectors) -> Vectors:
        """Return the token codes of latents ``[n, size]``, as views: ``[n, ratio, token_size]``; zeros where no token is."""
        return latents[:, self._codes].reshape(len(latents), self._ratio, self._token_size)

    def word_codes(self, question: str) -> list[list[Vectors]]:
        """Return for each content word of a question its spellings, each as the codes of its tokens ``[tokens, token_size]``."""
        words = []
        for word in content_words(question):
            forms = {f"{space}{form}" for form in (word, word.capitalize()) for space in (" ", "")}
            ids = [self._tokenizer.encode(form) for form in sorted(forms)]
            words.append([self._table_codes[form].numpy() for form in ids if form])
        return words

    @cached_property
    def question_mark(self) -> Vectors:
        """The codes of the token ``?`` and of its full-width form, ``[n, token_size]``."""
        ids = [ids[0] for text in ("?", "？") if len(ids := self._tokenizer.encode(text)) == 1]
        return np.asarray(self._table_codes[ids].numpy(), np.float32)

    def decode(self, turns: Sequence[Vectors]) -> list[str]:
        """Return the texts of turns, each after who said it; empty if a token was not kept exactly.

        Cost: a product with the codes of the whole vocabulary; several turns at once take a fraction of the time.

        Args:
            turns: of each turn all its latents, in order, ``[n, size]``; none of them merged.
        """
        if not turns:
            return []
        codes = [
            torch.from_numpy(np.ascontiguousarray(self.codes(latents))).flatten(0, 1) for latents in turns
        ]
        codes = [part[part.square().sum(dim=1) > self._token_size * _EXACT] for part in codes]
        lengths = list(map(len, codes))
        ids, distances = nearest_tokens(torch.cat(codes), self._table_codes)
        exact = distances <= self._token_size * _MAX_DISTANCE
        return [
            self._decode_ids(own.tolist()) if len(own) and kept.all() else ""
            for own, kept in zip(torch.split(ids, lengths), torch.split(exact, lengths), strict=True)
        ]

    @property
    def _table_codes(self) -> torch.Tensor:
        if self._autoencoder not in _TABLE_CODES:
            _TABLE_CODES[self._autoencoder] = self._autoencoder.table_codes(self._reader.table)
        return _TABLE_CODES[self._autoencoder]


def line_span(tokenizer: TurnTokenizer, text: str) -> TokenSpan:
    """Return a line of text as the model reads a user's turn; of a long one its first chunk."""
    chunk = tokenizer.split(Turn(1, "", "", "user", text, datetime(1970, 1, 1, tzinfo=UTC)))[0]
    return tokenizer.chunk_span(chunk, [])


def presence(slots: Vectors, forms: Sequence[Vectors]) -> Vectors:
    """Return how surely each spelling of a word stands at each place.

    Args:
        slots: token codes, place after place, ``[places, token_size]``.
        forms: of each spelling the codes of its tokens, ``[tokens, token_size]``.

    Returns:
        float32 ``[places, forms]``, 0 to 1; of several tokens that of the least sure one.
    """
    codes = np.concatenate(forms)
    distances = np.square(slots).sum(axis=1)[:, None] + np.square(codes).sum(axis=1) - 2 * slots @ codes.T
    likely = np.exp(distances.clip(min=0) / (-2 * _EXACT * slots.shape[1]))
    starts = np.cumsum([0, *map(len, forms)])
    spelled = [
        np.min([np.roll(likely[:, start + offset], -offset) for offset in range(len(form))], axis=0)
        for start, form in zip(starts.tolist(), forms, strict=False)
    ]
    return np.stack(spelled, axis=1)
