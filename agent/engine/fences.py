"""Escape ``<memory>`` and ``</memory>`` in text, so that it cannot open or close the block of recollections in a prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

_BRACKET = re.compile("[<＜﹤≮‹❮˂𝈶ᐸᚲ\u3008\u2329︿⟨❬❰《︽⟪«≪⋘⫷⋖⪡⪦⩹≺⊀⧼⦑⦓⨞◁◃]")
_SLASHES = "\\⁄∕╱⟋⧸⧵⁁᜵𝈺㇓〳Ⳇノ丿"
# Characters that Unicode lists as confusable (UTS #39) and that decomposition and case folding do not map to a letter;
# also small capitals and letters in boxes.
_LOOKALIKES = {
    "m": "μϻмᴍᎷᗰᛖⲙꓟ𐊰𐌑𑜀𑣣🅜🅼🇲",
    "e": "εɛеєҽᴇᎬ℮⋿ⴹꓰꬲ𐊆𑣆𑣎🅔🅴🇪",
    "o": "0οσоօסه٥ھہە۵߀०০੦૦ଠ୦௦౦೦ഠ൦๐໐ဝ၀ჿዐᴏᴑⲟⵔ〇ꓳꬽ𐊒𐊫𐐬𐓪𐔖𑓐𑣈𑣕𑣗𑣠🅞🅾🇴",
    "r": "ɾʀгґᎡᎱᏒᖇᴦⲅꓣꭇꭈ𐓜𖼵𝈖🅡🆁🇷",
    "y": "ɣʏγυуүყᎩᎽᶌỿⲩꓬꭚ𐊲𑣄𑣜𖽃🅨🆈🇾",
    "n": "ηոռ🅝🅽🇳",
    "/": _SLASHES,
}
_ASCII_OF = {char: letter for letter, confusables in _LOOKALIKES.items() for char in confusables}
# Blank, although their Unicode categories are letters and symbols; U+2581 is SentencePiece's space.
_BLANKS = frozenset("\u115f\u1160\u2581\u2800\u3164\ufffc")
_INVISIBLE_CATEGORIES = ("M", "Z", "C")
# Tag characters: invisible copies of ASCII that some models read.
_TAGS = {0xE0000 + code: code for code in range(0x20, 0x7F)}
# "rn" looks like "m".
_NAMES = ("memory", "rnemory", "mernory", "rnernory")


def without_fences(texts: Sequence[str]) -> list[str]:
    """Return the texts with ``&lt;`` for each opening bracket that could begin a ``<memory>`` or ``</memory>``.

    A bracket is escaped if the letters of "memory" follow it, after any number of slashes. White space, invisible
    characters and combining marks in between are ignored. A character that looks like a bracket, slash or letter counts
    as one: full-width, mathematical and other forms of Unicode, look-alikes of other scripts, capitals, ``rn`` for ``m``
    and 0 for ``o``. Nothing else changes: letters, line breaks, and joiners within words or emoji stay.

    Args:
        texts: texts that may follow each other in a prompt; a tag may begin in one text and end in the next.

    Returns:
        The escaped texts, in the same order.
    """
    whole = "".join(texts)
    tagged = whole.translate(_TAGS)
    variants = {whole, tagged}
    positions = [
        bracket.start()
        for bracket in _BRACKET.finditer(tagged)
        if any(_is_tag_name(variant, bracket.end()) for variant in variants)
    ]
    ends = list(accumulate(map(len, texts)))
    results = []
    for text, end in zip(texts, ends, strict=True):
        start = end - len(text)
        brackets = [position - start for position in positions if start <= position < end]
        parts = pairwise([-1, *brackets, len(text)])
        results.append("&lt;".join(text[before + 1 : after] for before, after in parts))
    return results


def _is_tag_name(text: str, start: int) -> bool:
    """Tell whether the text from ``start`` on looks like slashes and the tag's name."""
    prefix = ""
    for index in range(start, len(text)):
        prefix = (prefix + _to_ascii(text[index])).lstrip("/")
        if prefix.startswith(_NAMES):
            return True
        if not any(name.startswith(prefix) for name in _NAMES):
            return False
    return False


@lru_cache(maxsize=4096)
def _to_ascii(char: str) -> str:
    """Return the small letters that a character looks like, or an empty string if it is invisible."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    return "".join(_ASCII_OF.get(part, part) for part in folded if not _is_invisible(part))


def _is_invisible(char: str) -> bool:
    return char in _BLANKS or unicodedata.category(char).startswith(_INVISIBLE_CATEGORIES)
