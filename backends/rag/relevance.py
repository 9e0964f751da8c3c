"""Abstention: which of the best-ranked chunks are relevant enough for a place in a prompt.

The best hit of a search always exists; for most messages of a chat it is noise. A chunk is relevant if its relevance
score reaches the threshold of the message:

    message                                               relevance score                        threshold
    question about the user, or about a name in a chunk   cosine + 0.15 * coverage - penalties   0.36
    any other                                             cosine - penalties                     0.60

    penalties: 0.10 if the chunk is a question; 0.15 if the assistant said it, unless the message asks what it said.

Chunks more than 0.10 below the best are dropped, because small models answer from distractors.

Calibrated on memagent's own set of 82 facts and 165 messages that nothing stored answers (``benchmarks/abstention.py``
prints the trade-off): all plainly asked facts and 59 % of the freely paraphrased ones are kept; 4 % of messages not
about the user get a hit. Known limit: "how tall am I?" against "my shoe size is 43" looks like an answer, so three in
four questions about facts never mentioned, on topics that were, still get a hit. Question words and pronouns are
English ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from memagent.backends.shared.full_text import STOP_WORDS

COVERAGE_WEIGHT = 0.15
QUESTION_PENALTY = 0.10
ASSISTANT_PENALTY = 0.15
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
    """What the relevance of one chunk is judged by.

    Attributes:
        cosine: cosine similarity of query and chunk, -1 to 1.
        coverage: idf-weighted share of the query's content words that the chunk holds, 0 to 1.
        text: the chunk, after its speaker's name where there is one.
        by_assistant: whether the assistant said it: it may be a guess.
    """

    cosine: float
    coverage: float
    text: str
    by_assistant: bool = False


def is_question(text: str) -> bool:
    """Return whether a message asks something: by its question mark or its first word."""
    return bool(_QUESTION.search(text))


class RelevanceFilter:
    """Selects the relevant chunks for one query.

    Args:
        query: the message.
        personal_threshold: lowest relevance score for a question about the user or about a name in the chunk.
        general_threshold: lowest relevance score for any other message.
    """

    def __init__(self, query: str, *, personal_threshold: float, general_threshold: float) -> None:
        self._personal_threshold = personal_threshold
        self._general_threshold = general_threshold
        self._is_question = is_question(query)
        self._about_user = bool(_FIRST_PERSON.search(_FORMULA.sub(" ", query)))
        self._assistant_penalty = 0.0 if _SECOND_PERSON.search(query) else ASSISTANT_PENALTY
        self._names = {
            name.removesuffix("'s") for name in _NAME.findall(query) if name.casefold() not in STOP_WORDS
        }

    def select(self, evidence: Mapping[str, Evidence]) -> list[str]:
        """Return the keys of the relevant chunks, in the order given.

        A higher cosine or coverage never removes the chunk itself, but may push others below the margin.
        """
        scores = {key: self.score(chunk_evidence) for key, chunk_evidence in evidence.items()}
        relevant = {key: score for key, score in scores.items() if score >= 0}
        best = max(relevant.values(), default=0.0)
        return [key for key, score in relevant.items() if score >= best - MARGIN]

    def score(self, evidence: Evidence) -> float:
        """Return a chunk's relevance score minus the threshold that applies to it; below 0 it is not relevant."""
        penalty = (
            QUESTION_PENALTY * evidence.text.rstrip().endswith("?")
            + self._assistant_penalty * evidence.by_assistant
        )
        if self._is_question and (self._about_user or any(name in evidence.text for name in self._names)):
            return evidence.cosine + COVERAGE_WEIGHT * evidence.coverage - penalty - self._personal_threshold
        return evidence.cosine - penalty - self._general_threshold
