"""Does a message need memory at all? A linear classifier over the multilingual sentence encoder, for any language.

"Where did I park?" does, "Write a haiku about the sea." does not. Most messages of a chat are of the second kind, and the best
hit of a search always exists. ``benchmarks/fit_recall.py`` fits the classifier (logistic regression with an L2 penalty)
and writes ``memory_need.safetensors``; ``docs/relevance.md`` has its error rates and the data.
"""

from __future__ import annotations

from pathlib import Path

from memagent.backends.shared.linear import classifier
from memagent.backends.shared.multilingual import MultilingualEmbedder
from memagent.backends.shared.text import is_question, normalize

WEIGHTS = Path(__file__).with_name("memory_need.safetensors")


def memory_need(message: str) -> float:
    """Return how much a message asks for what was told before, in nats; above 0 it more likely does than not."""
    weights, bias = classifier(WEIGHTS)
    return float(MultilingualEmbedder().embed_queries([message])[0] @ weights + bias)


def asks(message: str) -> bool:
    """Return whether a message asks for something, as a question or as a request that needs memory."""
    return is_question(message) or memory_need(message) > 0


def repeats_question(message: str, text: str) -> bool:
    """Return whether a text has the words of a message that asks: it asked before, and is no answer. A statement is one."""
    return normalize(message) == normalize(text) and asks(message)
