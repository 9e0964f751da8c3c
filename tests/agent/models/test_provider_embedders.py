"""LangChain embedders behind our interface, with LangChain's own fake one and with broken ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from memagent.agent.models.embedding import load_embedder
from memagent.agent.models.providers import ProviderEmbedder
from memagent.backends.errors import MissingExtraError, ModelError

TEXTS = ["My dog is called Biscuit.", "I live in Porto.", ""]


class Answering(Embeddings):
    """Answers with what a function makes of the number of texts; raises what it raises."""

    def __init__(self, answer: Callable[[int], Any]) -> None:
        self.answer = answer
        self.requests: list[list[str]] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.requests.append(texts)
        vectors: list[list[float]] = self.answer(len(texts))
        return vectors

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def embedder(answer: Callable[[int], Any]) -> ProviderEmbedder:
    return ProviderEmbedder(Answering(answer), "fake:x")


@pytest.fixture
def langchain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package langchain whose ``init_embeddings`` the test fills in."""
    package, module = ModuleType("langchain"), ModuleType("langchain.embeddings")
    monkeypatch.setitem(sys.modules, "langchain", package)
    monkeypatch.setitem(sys.modules, "langchain.embeddings", module)
    return module


def test_vectors_are_the_providers_at_length_1() -> None:
    fake = DeterministicFakeEmbedding(size=7)
    provider = ProviderEmbedder(fake, "fake:x")
    vectors, questions = provider.embed(TEXTS), provider.embed_queries(TEXTS)
    expected = np.array(fake.embed_documents(TEXTS))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(questions, expected, atol=1e-6)
    assert vectors.dtype == questions.dtype == np.float32
    assert provider.dimension == 7


def test_stored_texts_go_to_the_provider_at_once_and_questions_one_by_one() -> None:
    model = Answering(lambda count: [[1.0, 0.0]] * count)
    provider = ProviderEmbedder(model, "fake:x")
    provider.embed(TEXTS)
    provider.embed_queries(TEXTS[:2])
    assert model.requests == [TEXTS, TEXTS[:1], TEXTS[1:2]]


def test_no_texts_make_no_vectors() -> None:
    provider = ProviderEmbedder(DeterministicFakeEmbedding(size=7), "fake:x")
    assert provider.embed([]).shape == provider.embed_queries([]).shape == (0, 7)


def test_nothing_is_sent_before_a_text_or_the_dimension_is_needed() -> None:
    model = Answering(lambda count: [[1.0, 2.0]] * count)
    provider = ProviderEmbedder(model, "fake:x")
    assert (provider.name, provider.digest) == ("fake:x", "provider fake:x")
    assert model.requests == []
    assert provider.dimension == provider.dimension == 2
    assert len(model.requests) == 1


@pytest.mark.parametrize("value", [1e-30, 1e30])
def test_very_short_and_very_long_vectors_get_length_1(value: float) -> None:
    vectors = embedder(lambda count: [[0.0, value]] * count).embed(["a", "b"])
    assert vectors.tolist() == [[0.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda count: [[1.0, float("nan")]] * count, "gave a vector that is zero or not finite"),
        (lambda count: [[1.0, float("inf")]] * count, "gave a vector that is zero or not finite"),
        (lambda count: [[0.0, 0.0]] * count, "gave a vector that is zero or not finite"),
        (lambda count: [[]] * count, "gave a vector that is zero or not finite"),
    ],
)
def test_a_vector_without_a_direction_is_refused(answer: Callable[[int], Any], message: str) -> None:
    for embed in (embedder(answer).embed, embedder(answer).embed_queries):
        with pytest.raises(ModelError, match=f"fake:x {message}"):
            embed(["a", "b"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda count: [[1.0, 2.0]] * (count - 1), r"fake:x gave 1 by 2 numbers for 2 texts; expected a vector"),
        (lambda count: [[1.0, 2.0]] * (count + 1), r"fake:x gave 3 by 2 numbers for 2 texts; expected a vector"),
        (lambda count: [1.0] * count, r"fake:x gave 2 numbers for 2 texts; expected a vector"),
        (lambda count: [], r"fake:x gave 0 numbers for 2 texts"),
        (lambda count: None, r"fake:x gave no numbers for 2 texts"),
        (lambda count: [[1.0], [1.0, 2.0]], r"fake:x could not embed: .*inhomogeneous"),
        (lambda count: [["a"], ["b"]], r"fake:x could not embed: could not convert"),
    ],
)  # fmt: skip
def test_anything_but_a_vector_for_each_text_is_refused(answer: Callable[[int], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        embedder(answer).embed(["a", "b"])


def test_questions_with_vectors_of_unequal_length_are_refused() -> None:
    lengths = iter([2, 3])
    with pytest.raises(ModelError, match="fake:x could not embed"):
        embedder(lambda count: [[1.0] * next(lengths)]).embed_queries(["a", "b"])


@pytest.mark.parametrize("error", [TimeoutError("no answer"), ValueError("no key"), KeyError("x")])
def test_what_a_provider_raises_is_a_model_error(error: Exception) -> None:
    def fail(count: int) -> Any:
        raise error

    for embed in (embedder(fail).embed, embedder(fail).embed_queries):
        with pytest.raises(ModelError, match=f"fake:x could not embed: {error}") as caught:
            embed(["a"])
        assert caught.value.__cause__ is error
    with pytest.raises(ModelError, match="fake:x could not embed"):
        _ = embedder(fail).dimension


def test_control_c_stops_a_request() -> None:
    def interrupt(count: int) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedder(interrupt).embed(["a"])


def test_what_langchain_builds_is_used_under_the_name_given(langchain: ModuleType, tmp_path: Any) -> None:
    names: list[str] = []

    def init_embeddings(name: str) -> Embeddings:
        names.append(name)
        return DeterministicFakeEmbedding(size=7)

    langchain.init_embeddings = init_embeddings  # type: ignore[attr-defined]
    provider = load_embedder(tmp_path, "openai:text-embedding-3-small", notify=pytest.fail)
    assert names == [provider.name] == ["openai:text-embedding-3-small"]
    assert provider.embed(TEXTS).shape == (3, 7)


@pytest.mark.parametrize(
    "error", [ValueError("no provider foo"), ImportError("pip install langchain-ollama")]
)
def test_a_provider_that_refuses_is_a_model_error(langchain: ModuleType, error: Exception) -> None:
    def init_embeddings(name: str) -> Embeddings:
        raise error

    langchain.init_embeddings = init_embeddings  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=f"The embedder ollama:x cannot be set up: {error}"):
        ProviderEmbedder.from_string("ollama:x")


def test_without_langchain_the_message_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("langchain", "langchain.embeddings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingExtraError, match=r"The embedder ollama:x needs .*pip install 'memagent\[langchain\]'"
    ):
        ProviderEmbedder.from_string("ollama:x")
