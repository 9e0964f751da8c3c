"""Keeping text from outside from opening or closing the block that holds recollections in a prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

_BRACKET = re.compile("[<＜﹤≮‹❮˂𝈶ᐸᚲ\u3008\u2329︿⟨❬❰《︽⟪«≪⋘⫷⋖⪡⪦⩹≺⊀⧼⦑⦓⨞◁◃]")
_SLASHES = "\\⁄∕╱⟋⧸⧵⁁᜵𝈺㇓〳Ⳇノ丿"
# Of Unicode's confusables (UTS #39), what decomposition and case folding leave; and small capitals and letters in boxes.
_LOOKALIKES = {
    "m": "μϻмᴍᎷᗰᛖⲙꓟ𐊰𐌑𑜀𑣣🅜🅼🇲",
    "e": "εɛеєҽᴇᎬ℮⋿ⴹꓰꬲ𐊆𑣆𑣎🅔🅴🇪",
    "o": "0οσоօסه٥ھہە۵߀०০੦૦ଠ୦௦౦೦ഠ൦๐໐ဝ၀ჿዐᴏᴑⲟⵔ〇ꓳꬽ𐊒𐊫𐐬𐓪𐔖𑓐𑣈𑣕𑣗𑣠🅞🅾🇴",
    "r": "ɾʀгґᎡᎱᏒᖇᴦⲅꓣꭇꭈ𐓜𖼵𝈖🅡🆁🇷",
    "y": "ɣʏγυуүყᎩᎽᶌỿⲩꓬꭚ𐊲𑣄𑣜𖽃🅨🆈🇾",
    "n": "ηոռ🅝🅽🇳",
    "/": _SLASHES,
}
_LETTERS = {alike: letter for letter, many in _LOOKALIKES.items() for alike in many}
# Blank, though Unicode counts them among letters and symbols; U+2581 is SentencePiece's space.
_BLANKS = frozenset("\u115f\u1160\u2581\u2800\u3164\ufffc")
_UNSEEN = ("M", "Z", "C")
# Invisible copies of ASCII, which some models read.
_TAGS = {0xE0000 + code: code for code in range(0x20, 0x7F)}
# To the eye, r and n make an m.
_NAMES = ("memory", "rnemory", "mernory", "rnernory")


def without_fences(texts: Sequence[str]) -> list[str]:
    """Return the texts with ``&lt;`` for each opening bracket that could begin a ``<memory>`` or ``</memory>``.

    The rule: a bracket counts if, after any slashes, the letters of "memory" follow it. White space, invisible characters
    and combining marks between them are not counted. Whatever looks like a bracket, slash or letter counts as it: full-width,
    mathematical and other forms of Unicode, look-alikes of other scripts, capitals, ``rn`` for ``m`` and 0 for ``o``.
    Nothing else changes: not the letters, not the line breaks, not joiners within words or emoji.

    Args:
        texts: what may come to stand one after the other, so that the name may follow in the next one.
    """
    whole = "".join(texts)
    tagged = whole.translate(_TAGS)
    readings = {whole, tagged}
    places = [
        bracket.start()
        for bracket in _BRACKET.finditer(tagged)
        if any(_names_the_fence(reading, bracket.end()) for reading in readings)
    ]
    ends = list(accumulate(map(len, texts)))
    results = []
    for text, end in zip(texts, ends, strict=True):
        start = end - len(text)
        own = [place - start for place in places if start <= place < end]
        parts = pairwise([-1, *own, len(text)])
        results.append("&lt;".join(text[before + 1 : after] for before, after in parts))
    return results


def _names_the_fence(text: str, place: int) -> bool:
    """Tell whether what is read from ``place`` on begins with slashes and the fence's name."""
    letters = ""
    for at in range(place, len(text)):
        letters = (letters + _read(text[at])).lstrip("/")
        if letters.startswith(_NAMES):
            return True
        if not any(name.startswith(letters) for name in _NAMES):
            return False
    return False


@lru_cache(maxsize=4096)
def _read(char: str) -> str:
    """Return what a character reads as: plain small letters, or nothing if it is not seen."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    return "".join(_LETTERS.get(one, one) for one in folded if not _is_unseen(one))


def _is_unseen(char: str) -> bool:
    return char in _BLANKS or unicodedata.category(char).startswith(_UNSEEN)
