"""Seeded damage to bytes: what tests and the fault campaign feed to everything that reads files.

    mutator = Mutator([path.read_bytes() for path in suite()], seed=7, tokens=YAML_TOKENS)
    for number in range(1000):
        check(mutator.mutation(number))

Mutation ``number`` of a seed is always the same bytes, so that a number is enough to see a failure again. The module
uses the standard library only and ships in no wheel.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

# fmt: off
ODD_NUMBERS = (
    *(str(2**bits + more) for bits in (7, 8, 15, 16, 31, 32, 53, 63, 64, 128) for more in (-1, 0, 1)),
    "0", "-0", "-1", "00", "007", "0o17", "0x7f", "1_000", "1:30:00", "1e9", "1e400", "-1e400", "1e15", "NaN", ".nan",
    "nan", "inf", "-inf", ".inf", "0.1", "-0.0", "5e-324", "1" + "0" * 400, "9" * 5000, "-" + "9" * 30, "2026-02-30",
    "0000-00-00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "99999-01-01",
)
ODD_TEXTS = (
    "", " ", "\t", "\n", "\r", "\r\n", "\0", "\x1b[31m", "\x7f", "\x85", "\xa0", "\xad", "\ufeff", "\u2028",
    "\u200b", "\u202e", "\u2066", "\u0301" * 40, "\ufffe", "\uffff", "\ufdd0", "\U0001f98a", "\U0010ffff", "\uff1a",
    "\u3000", "\u0130", "\u1e9e", "\ufb03", "\u0661\u0662", "\u00e9", "e\u0301", "\u3042", "\u05d0", "true", "false",
    "null", "~", "yes", "no", "None", "undefined", "__class__", "../../x", "%s%n", "{}", "a" * 5000,
)
ODD_BYTES = (
    b"\0", b"\xff", b"\xfe", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\x1a",
)
YAML_TOKENS = (
    b"- ", b"? ", b": ", b", ", b"[", b"]", b"{", b"}", b"#", b"&a ", b"*a", b"&a [*a]", b"<<: *a", b"!x ", b"!!binary ",
    b"!!python/object:os.system ", b"!<%41%ff> ", b"|", b"|9", b">-", b">+", b"'", b'"', b"%YAML 1.1\n", b"%YAML 9.9\n",
    b"%TAG ! tag:x,2026:\n", b"---\n", b"...\n", b"\t", b"  ", b'"\\U99999999"', b'"\\ud800"', b'"\\x0"', b'"\\0"',
    b'"\\\n"', b"@", b"`", b"= ", b"[[[[[[[[[[", b"{{{{{{", b"- - - - - - - ", b"? ? ? ? ", b"a: &a [*b, *b]\n",
)
JSON_TOKENS = (
    b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b'"\\ud800"', b'"\\u0000"', b'"\\uDE00\\uD83D"', b"\\x41", b"'",
    b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity", b"[[[[[[[[", b'{"a":', b"//", b"/* */", b"\n", b"\r",
    b"[]", b"{}", b'""', b'"a":1,"a":2', b"0123", b".5", b"1.", b"+1", b"0x1", b"1e999", b"\xef\xbb\xbf",
)
# fmt: on
_NUMBER = re.compile(rb"-?\d+")
_WORD = re.compile(rb"\w+")
_LONGEST_REPEAT = 20_000
_MOST_STEPS = 4


class Mutator:
    """Makes damaged inputs from whole ones.

    Args:
        originals: whole inputs, at least one.
        seed: which mutations.
        tokens: pieces of the format, put in and swapped for words; ``YAML_TOKENS``, ``JSON_TOKENS`` or others.
    """

    def __init__(self, originals: Sequence[bytes], seed: int, tokens: Sequence[bytes] = ()) -> None:
        self._originals = originals
        self._seed = seed
        words = sorted({word for original in originals for word in _WORD.findall(original)})
        odd = [text.encode() for text in (*ODD_NUMBERS, *ODD_TEXTS)]
        self._tokens = [*tokens, *odd, *ODD_BYTES]
        self._words = words or [b"a"]

    def mutation(self, number: int) -> bytes:
        """Return one damaged input; the same for the same originals, seed, tokens and number."""
        rng = random.Random(f"{self._seed} {number}")
        data = rng.choice(self._originals)
        for _ in range(rng.randint(1, _MOST_STEPS)):
            data = rng.choice(_STEPS)(self, rng, data)
        return data

    def token(self, rng: random.Random) -> bytes:
        """Return a piece to put in: of the format, odd, or a word of an original."""
        pieces: Sequence[bytes] = self._words if rng.random() < 0.3 else self._tokens
        return rng.choice(pieces)

    def other(self, rng: random.Random) -> bytes:
        """Return an original."""
        return rng.choice(self._originals)


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    """A range of places, mostly short."""
    start = rng.randint(0, len(data))
    length = rng.choice((1, 2, 8, 32, 256, len(data)))
    return start, min(len(data), start + rng.randint(0, length))


def _flip_bits(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_bytes(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _truncate(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _drop(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    times = min(rng.choice((2, 3, 20, 1000)), _LONGEST_REPEAT // max(1, end - start))
    return data[:start] + data[start:end] * times + data[end:]


def _splice(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    other = mutator.other(rng)
    start, end = _span(rng, other)
    place = rng.randint(0, len(data))
    return data[:place] + other[start:end] + data[rng.choice((place, min(len(data), place + end - start))) :]


def _put_token(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + mutator.token(rng) + data[place:]


def _swap_word(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    return _replace(rng, data, _WORD, mutator.token(rng))


def _swap_number(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    return _replace(rng, data, _NUMBER, rng.choice(ODD_NUMBERS).encode())


def _swap_all(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    """Put a token for every place of one word."""
    words = _WORD.findall(data)
    return data.replace(rng.choice(words), mutator.token(rng), 50) if words else data


def _replace(rng: random.Random, data: bytes, pattern: re.Pattern[bytes], fresh: bytes) -> bytes:
    places = [found.span() for found in pattern.finditer(data)]
    if not places:
        return data + fresh
    start, end = rng.choice(places)
    return data[:start] + fresh + data[end:]


def _change_lines(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    """Drop, double, move, indent or repeat a line."""
    lines = data.splitlines(keepends=True) or [b"\n"]
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case 2:
            lines.insert(rng.randrange(len(lines)), lines.pop(at))
        case 3:
            lines[at] = rng.choice((b" ", b"  ", b"\t", b"        ")) + lines[at]
        case _:
            lines[at] *= min(200, _LONGEST_REPEAT // max(1, len(lines[at])))
    return b"".join(lines)


def _change_encoding(mutator: Mutator, rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    match rng.randrange(6):
        case 0:
            return text.encode("utf-16")
        case 1:
            return text.encode("utf-32")
        case 2:
            return text.encode("latin-1", "replace")
        case 3:
            return b"\xef\xbb\xbf" + data
        case 4:
            return data.replace(b"\n", b"\r\n")
        case _:
            return data.replace(b"\n", b"\r")


_STEPS: Sequence[Callable[[Mutator, random.Random, bytes], bytes]] = (
    _flip_bits,
    _set_bytes,
    _truncate,
    _drop,
    _repeat,
    _splice,
    *(_put_token,) * 4,
    *(_swap_word,) * 4,
    *(_swap_number,) * 2,
    _swap_all,
    *(_change_lines,) * 3,
    _change_encoding,
)
