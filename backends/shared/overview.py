"""Messages that ask for all that is known ("What do you know about me?"): a listing answers them, no search does."""

from __future__ import annotations

from functools import cache

from memagent.backends.protocol import Vectors
from memagent.backends.shared.multilingual import MultilingualEmbedder

_THRESHOLD = 0.65
"""Cosine to the nearest example. Chosen on the messages of ``benchmarks/data/abstention.json`` and ``languages.yaml``, of which
none reaches it ("Who are you?" has 0.63), and on twelve other wordings in six languages, of which eleven do."""
_EXAMPLES = (
    "What do you know about me?",
    "Tell me everything you remember about me.",
    "What have I told you so far?",
    "Summarise what you know about me.",
    "What do you remember from our conversations?",
    "Was weißt du über mich?",
    "Erzähl mir alles, was du über mich weißt.",
    "Was habe ich dir bisher erzählt?",
    "¿Qué sabes de mí?",
    "Cuéntame todo lo que recuerdas de mí.",
    "Что ты знаешь обо мне?",
    "Расскажи всё, что ты обо мне помнишь.",
    "你了解我什么？",
    "告诉我你记得的关于我的一切。",
    "私について何を知っていますか？",
    "私について覚えていることを全部教えて。",
    "Que sais-tu de moi ?",
    "Cosa sai di me?",
    "O que você sabe sobre mim?",
    "Wat weet je over mij?",
)


def asks_for_overview(message: str) -> bool:
    """Return whether a message asks for all that is known about its writer."""
    vector = MultilingualEmbedder().embed_queries([message])[0]
    return float((_examples() @ vector).max()) >= _THRESHOLD


@cache
def _examples() -> Vectors:
    return MultilingualEmbedder().embed(_EXAMPLES)
