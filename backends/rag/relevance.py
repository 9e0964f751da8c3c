"""Abstention: which of the best-ranked passages are relevant enough to be worth a place in a prompt.

The best hit of a search is always *something*; for most messages of a chat it is noise. A question
about the user ("my", "I") or about somebody the passage names may rest on a moderate likeness; any
other message must be very like the passage. Words both share help a little; a remembered question
says less than a statement.

    doubt = 0.10 if the passage is a question + 0.15 if the assistant said it, unless asked what it said
    about the user:  cosine + 0.15 * coverage - doubt >= 0.36        else:  cosine - doubt >= 0.60

What falls more than 0.10 behind the strongest is dropped too: small models answer from the wrong note.

Calibrated on memagent's own set of 82 facts and 165 messages that nothing stored answers
(``benchmarks/abstention.py`` prints the trade-off): all plainly asked facts and 59 % of the freely
paraphrased ones are kept; 4 % of messages not about the user get a hit. What it cannot see: "how tall
am I?" against "my shoe size is 43" looks like an answer, so three in four questions about things never
told, on themes near what was told, still draw a hit. English question words and pronouns are built in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from memagent.backends.shared.full_text import STOP_WORDS

COVERAGE_WEIGHT = 0.15
QUESTION_DOUBT = 0.10
ASSISTANT_DOUBT = 0.15
MARGIN = 0.10

_QUESTION = re.compile(
    r"\?\s*$|^(?:(?:so|and|hey|please|but)[, ]+)*(?:what|whats|when|where|who|whom|whose|which|why|how|do|does|did|is|are|was"
    r"|were|am|can|could|should|would|have|has|had|will|remind|any idea)\b",
    re.IGNORECASE,
)
_FIRST_PERSON = re.compile(r"\b(?:i|my|mine|me|myself|we|our|ours|us)\b", re.IGNORECASE)
_SECOND_PERSON = re.compile(r"\b(?:you|your|yours)\b", re.IGNORECASE)
# "How do I sort a list?" and "Tell me about Rome" are not about the user.
_FORMULA = re.compile(
    r"\bhow (?:do|can|could|should|would) (?:i|we|you)\b"
    r"|\b(?:help|tell|give|show|remind|let|teach|write|explain) (?:me|us)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"\b[A-Z][\w'-]{2,}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for one passage.

    Attributes:
        cosine: likeness of meaning between query and passage, -1 to 1.
        coverage: idf-weighted share of the query's content words that the passage holds, 0 to 1.
        text: the passage, with its speaker's name where there is one.
        by_assistant: an assistant said it, so it may be a guess.
    """

    cosine: float
    coverage: float
    text: str
    by_assistant: bool = False


def is_question(text: str) -> bool:
    """Say whether a message asks something: by its question mark or its first word."""
    return bool(_QUESTION.search(text))


class Relevance:
    """Judges passages for one query.

    Args:
        query: the message.
        personal: least strength for a question about the user or about somebody the passage names.
        other: least likeness for any other message.
    """

    def __init__(self, query: str, *, personal: float, other: float) -> None:
        self._personal = personal
        self._other = other
        self._is_question = is_question(query)
        self._about_user = bool(_FIRST_PERSON.search(_FORMULA.sub(" ", query)))
        self._assistant_doubt = 0.0 if _SECOND_PERSON.search(query) else ASSISTANT_DOUBT
        self._names = {
            name.removesuffix("'s") for name in _NAME.findall(query) if name.casefold() not in STOP_WORDS
        }

    def select(self, evidence: Mapping[str, Evidence]) -> list[str]:
        """Return the keys of the relevant passages, in the order given.

        Likeness and coverage never hurt a passage itself, but a much stronger one displaces it.
        """
        strength = {key: self.strength(one) for key, one in evidence.items()}
        found = {key: value for key, value in strength.items() if value >= 0}
        best = max(found.values(), default=0.0)
        return [key for key, value in found.items() if value >= best - MARGIN]

    def strength(self, evidence: Evidence) -> float:
        """How far a passage is above the threshold that holds for it; below 0 it is not relevant."""
        doubt = (
            QUESTION_DOUBT * evidence.text.rstrip().endswith("?")
            + self._assistant_doubt * evidence.by_assistant
        )
        if self._is_question and (self._about_user or any(name in evidence.text for name in self._names)):
            return evidence.cosine + COVERAGE_WEIGHT * evidence.coverage - doubt - self._personal
        return evidence.cosine - doubt - self._other
