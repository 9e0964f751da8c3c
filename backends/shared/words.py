"""Words of a text as full-text search compares them, in any script, with codes and numbers beside them.

Three things go beyond splitting at blanks and punctuation:

- Compatibility forms and combining accents are composed (Unicode NFKC), so that one word has one spelling.
- Scripts without spaces (Chinese, Japanese, Thai, ...) are split into overlapping pairs of characters, as search engines do
  where no dictionary is at hand: "花生过敏" becomes 花生 生过 过敏. In an indexed text, a run's last character stands
  alone as well, so that one character finds it anywhere.
- A code or number that is written with separators is a word without them, too: "555-123 4567" is also 5551234567.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from unicodedata import normalize as compose

_WORD = re.compile(r"[\w\u0300-\u036f]+")
_UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_UNSPACED_RUN = re.compile(_UNSPACED + "+")
# Letters and digits, in groups that only a separator stands between.
_CODE = re.compile(r"(?<![^\W_])(?<![^\W_],)[^\W_]+(?:[-._/:]+[^\W_]+)*")
# Groups of capitals and of digits in one code: M-KX 4471, AB 123 CD. "I" and "A" are words.
_CAPITAL_GROUP = r"(?![IA]\b)[A-Z\d]{1,5}"
_CAPITAL_GROUPS = re.compile(rf"(?<![\w-]){_CAPITAL_GROUP}(?:[ -]{_CAPITAL_GROUP}){{1,9}}(?![\w-])")
_DIGIT_GROUPS = re.compile(r"(?<![\w,.-])\+?\(?\d+\)?(?:[ ()./-]{1,3}\d+)+(?![\w-])")
_MIN_PHONE_DIGITS = 7

# Question words are among them: in a question they say what is asked for, not what it is about.
_STOP_WORDS_TEXT = """
a about after again all also am an and any are as at be because been before being but by can could
did do does doing done down for from had has have having he her here hers him his how i if in into
is it its just let like many me more most much my no not now of off on once one only or other our
out over own please s same she should so some such t tell than that the their them then there these
they this those through to too under until up us very was we were what when where which while who
whom whose why will with would you your yours
"""
STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())
"""English words that say nothing about a question's topic. Those of other languages are told by their frequency."""


def searchable(text: str) -> str:
    """Return a text as it is indexed: composed, in pairs where a script has no spaces, codes without separators at its end."""
    return _words_apart(text, lambda run: [*_pairs(run), run[-1]])


def query_words(query: str) -> list[str]:
    """Return the distinct words of a query in lower case, in order."""
    return list(dict.fromkeys(_WORD.findall(_words_apart(query, lambda run: _pairs(run) or [run]).lower())))


def content_words(query: str) -> list[str]:
    """Return the distinct words of a query that are not stop words, in order."""
    return [word for word in query_words(query) if word not in STOP_WORDS]


def shared_words(query: str, text: str) -> float:
    """Return the share of a query's content words that a text holds, 0 to 1; 0 if the query has none."""
    words = content_words(query)
    text_words = set(query_words(text))
    return sum(word in text_words for word in words) / len(words) if words else 0.0


def literals(text: str) -> list[str]:
    """Return the distinct codes and numbers of a text without their separators, case folded, in order.

    Each has a digit: E4012, 2.13.0, a UUID, a phone number or a number plate whose groups stand apart.
    """
    composed = compose("NFKC", _UNSPACED_RUN.sub(" ", text))
    codes = [re.sub(r"[\W_]", "", code.group()).casefold() for code in _CODE.finditer(composed)]
    numbers = [re.sub(r"\D", "", digits.group()) for digits in _DIGIT_GROUPS.finditer(composed)]
    codes += [number for number in numbers if len(number) >= _MIN_PHONE_DIGITS]
    for code_groups in _CAPITAL_GROUPS.finditer(composed):
        groups = re.split(r"[ -]", code_groups.group().casefold())
        # A word before a code may be written in capitals as well: IBAN DE89 3704.
        joined = ["".join(groups[first:]) for first in range(min(2, len(groups) - 1))]
        codes += [code for code in joined if not code.isdecimal()]
    return list(dict.fromkeys(code for code in codes if re.search(r"\d", code)))


def any_word_query(words: Iterable[str]) -> str:
    """Return an FTS5 expression that any of the words satisfies.

    Args:
        words: as ``query_words`` returns them. They are quoted, so that FTS5 reads none as an operator. A single character of
            a script without spaces also finds the pairs that begin with it.
    """
    return " OR ".join(
        f'"{word}"*' if _UNSPACED_RUN.fullmatch(word) and len(word) == 1 else f'"{word}"' for word in words
    )


def _words_apart(text: str, split: Callable[[str], list[str]]) -> str:
    """Return a text with blanks between its words, and its codes without separators at its end."""
    composed = compose("NFKC", text)
    spaced = _UNSPACED_RUN.sub(lambda run: f" {' '.join(split(run.group()))} ", composed)
    words = set(_WORD.findall(composed.casefold()))
    return " ".join([spaced, *(code for code in literals(composed) if code not in words)])


def _pairs(run: str) -> list[str]:
    return [run[place : place + 2] for place in range(len(run) - 1)]
