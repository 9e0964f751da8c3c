"""Tokenising turns and questions, and splitting turns into chunks, the unit that a memory stores and recalls.

Each chunk is written like a line of a play, ``User: My dog is called Biscuit.``, so that the speaker is part of what is
stored; a question begins with the same line. Nothing of a model's chat template is stored: where a text holds the name
of a control token such as ``<|im_end|>``, its characters are tokenised as text (``backends/shared/tokens.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memagent.backends.records import Turn
from memagent.backends.shared.tokens import TextTokenizer

MAX_CHUNK_TOKENS = 128
"""Most tokens of one chunk. Stored token ids are numbered within chunks, so this is part of the stored format."""

_OPENING = "Our conversation:\n"


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens whose keys, values or queries are wanted, and the tokens that the model reads before them.

    Attributes:
        prefix_ids: read by the model, not kept.
        ids: the tokens themselves.
    """

    prefix_ids: Sequence[int]
    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A turn, or a part of a long one.

    Attributes:
        turn: the turn it is from.
        part: its place in the turn, from 0.
        text: its part of the turn's text.
        ids: its tokens, beginning with the speaker's name; at most ``MAX_CHUNK_TOKENS``.
    """

    turn: Turn
    part: int
    text: str
    ids: tuple[int, ...]


class TurnTokenizer:
    """Tokenises turns and questions for one model.

    Args:
        tokenizer: the model's tokenizer of transformers, backed by the tokenizers library.
        opening: the text that the model reads before everything else.

    Raises:
        ModelError: the tokenizer is of another kind.
    """

    def __init__(self, tokenizer: Any, opening: str = _OPENING) -> None:
        self._tokenizer = TextTokenizer(tokenizer)
        self._newline_ids = self._tokenizer.encode("\n")
        start_id = tokenizer.bos_token_id
        # The first tokens of a text draw much attention and carry no content: they are read, never stored.
        self.opening_ids = [*([] if start_id is None else [start_id]), *self._tokenizer.encode(opening)]

    def split(self, turn: Turn) -> list[Chunk]:
        """Split a turn into chunks of at most ``MAX_CHUNK_TOKENS`` tokens, between words where possible."""
        name_ids = self._speaker_ids(turn)
        text = f" {turn.text}"
        ids, offsets = self._tokenizer.encode_with_offsets(text)
        chunks: list[Chunk] = []
        start = 0
        while start < len(ids):
            end = _chunk_end(text, offsets, start, MAX_CHUNK_TOKENS - len(name_ids))
            part = turn.text[max(0, offsets[start][0] - 1) : max(0, offsets[end - 1][1] - 1)]
            chunks.append(Chunk(turn, len(chunks), part.strip() or part, (*name_ids, *ids[start:end])))
            start = end
        return chunks

    def chunk_span(self, chunk: Chunk, context: Sequence[Chunk]) -> TokenSpan:
        """Return a chunk as the model reads it: after the opening and the chunks before it, oldest first."""
        context_ids = [token for other in context for token in (*other.ids, *self._newline_ids)]
        return TokenSpan([*self.opening_ids, *context_ids], chunk.ids)

    def continuation_span(self, chunk: Chunk) -> TokenSpan:
        """Return a later chunk of a turn without the speaker's name: the model reads it, but it is not kept again."""
        name_ids = self._speaker_ids(chunk.turn)
        return TokenSpan([*self.opening_ids, *name_ids], chunk.ids[len(name_ids) :])

    def question(self, text: str) -> TokenSpan:
        """Return a question as the model reads it after the opening.

        Its own tokens are the last ``MAX_CHUNK_TOKENS``; the speaker's name belongs to the prefix.
        """
        return TokenSpan([*self.opening_ids, *self._name_ids("User")], self._question_ids(text))

    def question_after_chunk(self, text: str) -> TokenSpan:
        """Return a question as the model reads it right after a chunk whose keys and values are injected."""
        return TokenSpan([*self._newline_ids, *self._name_ids("User")], self._question_ids(text))

    def _question_ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(" " + text)[-MAX_CHUNK_TOKENS:]

    def _speaker_ids(self, turn: Turn) -> list[int]:
        return self._name_ids(turn.speaker or turn.role.title())

    def _name_ids(self, name: str) -> list[int]:
        return self._tokenizer.encode(f"{name}:")[-MAX_CHUNK_TOKENS // 4 :]


def _chunk_end(text: str, offsets: Sequence[tuple[int, int]], start: int, max_tokens: int) -> int:
    """Return where a chunk that begins at token ``start`` ends: between words if a space is near."""
    end = start + max_tokens
    if end >= len(offsets):
        return len(offsets)
    spaces = (at for at in range(end, end - max_tokens // 4, -1) if text[offsets[at][0]].isspace())
    # A character may take several tokens, which stay together.
    characters = (at for at in range(end, start, -1) if offsets[at][0] >= offsets[at - 1][1])
    return next(spaces, next(characters, end))
