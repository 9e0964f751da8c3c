"""Tokenising text from people, files and models so that none of it becomes a control token.

Added tokens of a tokenizer, such as ``<|im_end|>`` and ``<tool_call>``, steer a model: they end a message, begin one
or call a tool. A tokenizer makes them of the same letters in any text, and its option ``split_special_tokens`` holds
back only those that are flagged special. Here they are not looked for in text at all, and one that the vocabulary's
own merges make of a text's letters is written with other tokens. No letter changes (one that only a control token stands
for is left out), and a text without such a name gets the ids that the tokenizer itself gives it.

Two kinds of added tokens are ordinary text: white space that is not flagged special (indentation in code models, line
breaks in Gemma), and the unknown token where it stands for letters that the vocabulary lacks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate, count
from typing import Any

from memagent.backends.errors import ModelError

Offset = tuple[int, int]


def without_added_tokens(tokenizer: Any) -> Any:
    """Return a tokenizer with the same vocabulary and steps that looks for no added token in a text.

    The vocabulary is shared, not copied. Truncation and padding are off.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``; it stays as it is.
    """
    from tokenizers import Tokenizer

    bare = Tokenizer(tokenizer.model)
    for step in ("normalizer", "pre_tokenizer", "post_processor"):
        part = getattr(tokenizer, step)
        if part is not None:
            setattr(bare, step, part)
    return bare


class TextTokenizer:
    """Tokenises outside text, and prompts that hold outside text, with one model's tokenizer.

    Args:
        tokenizer: a tokenizer of transformers that is backed by the tokenizers library.

    Raises:
        ModelError: it is of another kind.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"The model's tokenizer ({type(tokenizer).__name__}) is written in Python. memagent needs one of the "
                "tokenizers library (tokenizer.json), to keep control tokens out of texts. Choose another model."
            )
        self._tokenizer = tokenizer
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
        spaces = {number: token for number, token in added.items() if _is_space(token)}
        self._control = {number: token.content for number, token in added.items() if number not in spaces}
        self._bare = without_added_tokens(tokenizer.backend_tokenizer)
        self._bare.add_tokens(list(spaces.values()))
        # Added to another tokenizer, a token may get another number.
        self._spaces = {self._bare.token_to_id(token.content): number for number, token in spaces.items()}
        unknown = getattr(self._bare.model, "unk_token", None) or tokenizer.unk_token
        self._unknown = None if unknown is None else tokenizer.convert_tokens_to_ids(unknown)
        # Some models name their end of text as the unknown token: there, unknown letters are left out.
        self._writes_unknown = self._unknown not in (tokenizer.bos_token_id, tokenizer.eos_token_id)
        names = [_spaced(name) for name in self._control.values()]
        self._names = sorted(names)
        self._reversed_names = sorted(name[::-1] for name in names)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, none of which is a control token's."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Offset]]:
        """Return the ids of a text, and for each the characters of the text that it stands for."""
        encoding = self._bare.encode(text, add_special_tokens=False)
        ids: list[int] = []
        offsets: list[Offset] = []
        for number, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            number = self._spaces.get(number, number)
            if self._is_control(number, text[begin:end]):
                own = self._spelled(number, text[begin:end])
            else:
                own = [number]
            ids += own
            offsets += [(begin, end)] * len(own)
        return ids, offsets

    def encode_prompt(self, render: Callable[[Sequence[str]], str], contents: Sequence[str]) -> list[int]:
        """Return the ids of a prompt where control tokens of the template are such, and those in contents are text.

        Args:
            render: makes the prompt's text of the contents, by a chat template for instance.
            contents: the outside texts. Where one may hold a control token, ``render`` gets it with marks between its
                letters, which tell afterwards whose letters a control token has.
        """
        suspects = [self._is_suspect(content) for content in contents]
        if not any(suspects):
            ids: list[int] = self._tokenizer(render(contents), add_special_tokens=False)["input_ids"]
            return ids
        everything = "\n".join(contents)
        mark = next(mark for mark in map("\ue000{}\ue001".format, count()) if mark not in everything)
        parts = render(
            [
                _marked(content, mark) if suspect else content
                for content, suspect in zip(contents, suspects, strict=True)
            ]
        ).split(mark)
        return self._encode_around("".join(parts), set(accumulate(map(len, parts[:-1]))))

    def _encode_around(self, text: str, marks: Collection[int]) -> list[int]:
        """Tokenise a prompt; a stretch in which a control token has a content's letters is tokenised as text.

        A stretch lies between two control tokens of the template.
        """
        encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = []
        stretch: list[int] = []
        start, foreign = 0, False
        for number, (begin, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            if not self._is_control(number, text[begin:end]):
                stretch.append(number)
            elif _crosses(marks, begin, end):
                foreign = True
            else:
                ids += [*(self.encode(text[start:begin]) if foreign else stretch), number]
                start, stretch, foreign = end, [], False
        return [*ids, *(self.encode(text[start:]) if foreign else stretch)]

    def _is_suspect(self, content: str) -> bool:
        """Tell whether a content holds a control token, or could make one with the letters beside it."""
        encoding = self._tokenizer(content, add_special_tokens=False, return_offsets_mapping=True)
        tokens = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        if any(self._is_control(number, content[begin:end]) for number, (begin, end) in tokens):
            return True
        max_length = max(map(len, self._names), default=0)
        return any(
            _is_prefix(core[-length:], self._names)
            or _is_prefix(core[length - 1 :: -1], self._reversed_names)
            for core in {_spaced(content).strip(), self._normal(content)}
            for length in range(1, min(len(core), max_length) + 1)
        )

    def _is_control(self, number: int, text: str) -> bool:
        """Tell whether a token that was made of this text is a control token."""
        return number in self._control and not (self._writes_unknown and self._is_unknown(number, text))

    def _is_unknown(self, number: int, text: str) -> bool:
        """Tell whether a token stands for letters that the vocabulary lacks, and not for its own name."""
        return number == self._unknown and self._normal(text) != _spaced(self._control[number])

    def _normal(self, text: str) -> str:
        normalizer = self._bare.normalizer
        return _spaced(text if normalizer is None else normalizer.normalize_str(text)).strip()

    def _spelled(self, number: int, text: str) -> list[int]:
        """Return what stands for a control token: shorter tokens of the same letters.

        A letter that nothing but a control token stands for is left out.
        """
        token = self._bare.id_to_token(number)
        ids: list[int] = []
        if len(token) == 1 or self._is_unknown(number, text):
            return ids
        for part in (token[:1], token[1:]):
            for subword in self._bare.model.tokenize(part):
                ids += self._spelled(subword.id, part) if self._is_control(subword.id, part) else [subword.id]
        return ids


def _is_space(token: Any) -> bool:
    """Tell whether an added token stands for white space as text has it; SentencePiece writes a space as U+2581."""
    return not token.special and not _spaced(token.content).strip()


def _marked(content: str, mark: str) -> str:
    """Put marks around and between the letters of a content, within the white space that a template may strip."""
    core = content.strip()
    return content.replace(core, f"{mark}{mark.join(core)}{mark}", 1) if core else content


def _crosses(marks: Collection[int], begin: int, end: int) -> bool:
    """Tell whether a token has letters of a content: a mark lies within it, or on both sides of its only letter."""
    if end - begin == 1:
        return begin in marks and end in marks
    return any(place in marks for place in range(begin + 1, end))


def _is_prefix(part: str, names: Sequence[str]) -> bool:
    """Tell whether any of these sorted names begins with a part."""
    place = bisect_left(names, part)
    return place < len(names) and names[place].startswith(part)


def _spaced(text: str) -> str:
    return text.replace("\u2581", " ")
