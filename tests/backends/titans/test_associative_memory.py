"""The associative memory and its beam decoding: exact texts, a fixed size, contradictions, forgetting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from memagent.backends.titans.associative_memory import AssociativeMemory, split_words
from memagent.backends.titans.decoding import decode

DIMENSION = 64
TEXTS = [
    "My dog is called Biscuit.",
    "I grew up in Oamaru, so the smell of the sea makes me homesick!",
    "The code is 4471; don't tell.",
    "私は東京に住んでいます。",
    "x" * 60,
]


def random_embeddings(count: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(count, DIMENSION, generator=torch.Generator().manual_seed(seed)), dim=1)


def embedding_at(embedding: Tensor, cosine: float, seed: int = 5) -> Tensor:
    """Return another embedding at this cosine."""
    other = random_embeddings(1, seed)[0]
    orthogonal = normalize(other - (other @ embedding) * embedding, dim=0)
    similar: Tensor = cosine * embedding + (1 - cosine**2) ** 0.5 * orthogonal
    return similar


def empty_memory(key_expansion: int = 128, alpha: float = 0.0, seed: int = 0) -> AssociativeMemory:
    return AssociativeMemory(DIMENSION, key_expansion, alpha, seed)


def memory_of(texts: list[str], **settings: float) -> tuple[AssociativeMemory, Tensor]:
    """Return a memory that has read texts, and their embeddings."""
    memory, embeddings = empty_memory(**settings), random_embeddings(len(texts))  # type: ignore[arg-type]
    for embedding, text in zip(embeddings, texts, strict=True):
        memory.write(embedding, text)
    return memory, embeddings


def decoded_texts(memory: AssociativeMemory, query: Tensor) -> list[str]:
    return [text for text, _ in decode(memory, query)]


@pytest.mark.parametrize(
    "text", [*TEXTS, "ha ha ha ha", "Two  spaces, a\nline.", "naïve café №5", "👍🏽 ok", "a"]
)
def test_words_concatenate_to_the_text(text: str) -> None:
    assert "".join(split_words(f" {text}\n")) == text


@pytest.mark.parametrize("cosine", [1.0, 0.6])
def test_decoding_gives_the_exact_text_and_a_score_that_follows_the_cosine(cosine: float) -> None:
    memory, embeddings = memory_of(TEXTS)
    for embedding, text in zip(embeddings, TEXTS, strict=True):
        best = decode(memory, embedding_at(embedding, cosine))[0]
        assert best.text == text
        assert best.score == pytest.approx((3 * cosine + cosine**2) / 4, abs=0.15)


def test_a_text_of_one_repeated_word_does_no_harm() -> None:
    text = "no " * 60 + "yes"
    memory, embeddings = memory_of([text, TEXTS[0]])
    for _ in range(20):
        memory.write(embeddings[0], text)
    assert memory.tensors()["weights"].isfinite().all()
    assert decode(memory, embeddings[1])[0].text == TEXTS[0]
    # Three words of context cannot tell the number of repetitions.
    assert decoded_texts(memory, embeddings[0])[0].startswith("no no no")


@pytest.mark.parametrize("cosine", [0.2, 0.5, 0.9])
def test_keys_are_similar_only_in_the_same_context(cosine: float) -> None:
    memory, embedding = empty_memory(key_expansion=512), random_embeddings(1)[0]
    contexts = [("a", "b"), ("b", "a"), ("b",)]
    keys = memory.encode_keys(embedding, contexts)
    products = keys @ memory.encode_keys(embedding_at(embedding, cosine), contexts).T
    assert torch.allclose(products.diag(), torch.full((3,), (3 * cosine + cosine**2) / 4), atol=0.1)
    assert (products - products.diag().diag()).abs().max() < 0.03
    assert torch.allclose(keys.norm(dim=1), torch.ones(3))


def test_an_empty_memory_decodes_nothing_and_an_unrelated_query_scores_low() -> None:
    assert decode(empty_memory(), random_embeddings(1)[0]) == []
    memory, embeddings = memory_of(TEXTS)
    unrelated = random_embeddings(1, seed=9)[0]
    projection = embeddings.T @ torch.linalg.pinv(embeddings.T) @ unrelated
    assert all(score < 0.35 for _, score in decode(memory, normalize(unrelated - projection, dim=0)))


def test_repetition_has_a_low_surprise_and_contradiction_a_high_one() -> None:
    memory, (embedding,) = empty_memory(), random_embeddings(1)
    first = memory.write(embedding, "I live in Lisbon.")
    repetition = memory.write(embedding, "I live in Lisbon.")
    contradiction = memory.write(embedding, "I live in Porto.")
    assert first.surprise == pytest.approx(1.0, abs=1e-5)
    assert first.surprise_reduction == pytest.approx(1.0, abs=0.05)
    assert repetition.surprise < 0.05
    assert contradiction.surprise > 0.2
    assert decoded_texts(memory, embedding)[0] == "I live in Porto."
    assert "I live in Lisbon." not in decoded_texts(memory, embedding)


def test_its_size_is_fixed_and_the_oldest_texts_fade_first() -> None:
    texts = [
        f"Number {number} is a {word} one." for number, word in enumerate(["red", "blue", "small"] * 100)
    ]
    memory, embeddings = memory_of(texts, key_expansion=16)
    assert memory.bytes == 16 * DIMENSION * 256 * 4

    def readable(numbers: range) -> int:
        return sum(decoded_texts(memory, embeddings[i])[:1] == [texts[i]] for i in numbers)

    assert readable(range(0, 100, 5)) < readable(range(280, 300)) > 15


def test_alpha_forgets_older_texts() -> None:
    keeping, embeddings = memory_of(TEXTS)
    forgetting, _ = memory_of(TEXTS, alpha=0.5)
    assert decode(keeping, embeddings[0])[0].score > 0.8
    assert all(score < 0.35 for _, score in decode(forgetting, embeddings[0]))
    assert decode(forgetting, embeddings[-1])[0].text == TEXTS[-1]


def test_a_restored_memory_continues_with_the_same_numbers() -> None:
    memory, embeddings = memory_of(TEXTS[:3])
    restored = empty_memory()
    tensors = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    restored.restore(tensors, list(memory.vocabulary), list(memory.first_words))
    for copy in (memory, restored):
        copy.write(embeddings[0], TEXTS[3])
    assert decode(restored, embeddings[0]) == decode(memory, embeddings[0]) != []
    assert torch.equal(restored.tensors()["weights"], memory.tensors()["weights"])
    with pytest.raises(ValueError, match=r"expected to be \[128, 256\] rather than \[8192, 256\]"):
        empty_memory(key_expansion=2).restore(tensors, [], [])


def test_the_weights_are_a_function_of_the_seed() -> None:
    weights = [memory_of(TEXTS, seed=seed)[0].tensors()["weights"] for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
