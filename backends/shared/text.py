"""Texts: normalisation for comparing two of them, and the characters that are unsafe in a terminal."""

from __future__ import annotations

import re
import unicodedata

UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What can command a terminal or change the order of the characters around it, or what no UTF-8 stream can hold.

C0 except newline and tab, DEL, C1; line and paragraph separators; embeddings, overrides and isolates of the writing
direction (CVE-2021-42574); lone surrogates. The marks U+200E, U+200F and U+061C stay: Hebrew and Arabic need them.
"""

_PUNCTUATION = " .,;:!?…¿¡。，、；：！？\"'“”„‘’«»"


def fold(text: str) -> str:
    """Return a text in lower case and composed (Unicode NFKC): one spelling for what reads the same, in any case."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def normalize(text: str) -> str:
    """Return a text as repetitions are compared: folded, with single blanks, without punctuation at its ends.

    Everything else counts: 1.5 mg is not 15 mg, C++ is not C.
    """
    words = " ".join(fold(text).split())
    return words.strip(_PUNCTUATION) or words


def is_question(text: str) -> bool:
    """Return whether a text ends as a question."""
    return text.rstrip().rstrip("\"'”’»)").endswith(("?", "？", "؟"))
