"""Embedders: word hashing always, MiniLM where its weights are here already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memagent.agent.home import Home
from memagent.agent.models import hub as fetch
from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_EMBEDDER
from memagent.agent.models.embedding import HashingEmbedder, load_embedder
from memagent.agent.models.runtime import transformers
from memagent.agent.models.sentence_encoder import SentenceEncoder
from memagent.backends.errors import ModelError, NotFoundError
from memagent.backends.protocol import Embedder
from tests.backends.tiny_tokenizers import KINDS

TEXTS = [
    "My dog is called Biscuit.",
    "I live in Porto.",
    "東京に住んでいます 😀",
    "x",
    "The quick brown fox jumps over the lazy dog, and nobody stops it. " * 8,
    "What is my dog's name?",
]


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    model, models = CATALOGUE[DEFAULT_EMBEDDER], Home.from_environment().models
    folder = model.folder(models)
    if not all((folder / file.name).exists() for file in model.files):
        pytest.skip(
            f"{DEFAULT_EMBEDDER} is not in {models}; `memagent models pull {DEFAULT_EMBEDDER}` fetches it"
        )
    return encoder(lambda: fetch.ensure(model, models, notify=lambda notice: None))


def encoder(folder: Callable[[], Path]) -> SentenceEncoder:
    """The default embedder with its files in another folder."""
    model = CATALOGUE[DEFAULT_EMBEDDER]
    return SentenceEncoder(
        model.name,
        folder,
        digest=model.weights.sha256,
        dimension=model.dimension,
        max_tokens=model.max_tokens,
        remedy=f"`memagent models verify {model.name}` checks every byte of it.",
    )


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe\0garbage"])
def test_damaged_files_of_the_embedder_are_a_model_error(
    tmp_path: Path, file: str, content: bytes | None
) -> None:
    model = CATALOGUE[DEFAULT_EMBEDDER]
    source = model.folder(Home.from_environment().models)
    for one in model.files:
        if one.name != file and (source / one.name).exists():
            (tmp_path / one.name).symlink_to(source / one.name)
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match="`memagent models verify all-minilm-l6-v2`"):
        encoder(lambda: tmp_path).embed(["My dog is called Biscuit."])


def similarity(embedder: Embedder, one: str, other: str) -> float:
    first, second = embedder.embed([one, other])
    return float(first @ second)


# word hashing


def test_hashed_texts_are_unit_vectors() -> None:
    vectors = HashingEmbedder().embed(TEXTS)
    assert vectors.shape == (len(TEXTS), HashingEmbedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_hashing_is_the_same_in_every_run() -> None:
    vector = HashingEmbedder().embed(["dog"])[0]
    assert {int(place): float(vector[place]) for place in np.flatnonzero(vector)} == {79: 1.0}


def test_more_shared_words_make_texts_more_alike() -> None:
    embedder = HashingEmbedder()
    question = "What is my dog called?"
    assert similarity(embedder, question, question) == pytest.approx(1.0)
    assert similarity(embedder, question, "WHAT is MY dog called") == pytest.approx(1.0)
    assert similarity(embedder, question, "My dog is called Biscuit.") == pytest.approx(0.8)
    assert similarity(embedder, question, "I live in Porto.") < 0.3


@pytest.mark.parametrize("text", ["", "?!", "\ud83d", "\0"])
def test_texts_without_words_have_finite_vectors(text: str) -> None:
    assert np.isfinite(HashingEmbedder().embed([text, "dog"])).all()


def test_no_texts_make_no_vectors() -> None:
    assert HashingEmbedder().embed([]).shape == (0, 384)


# choosing


def test_the_environment_chooses_the_embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_EMBEDDER", "hashing")
    assert isinstance(load_embedder(tmp_path, notify=print), HashingEmbedder)


@pytest.mark.parametrize("value", [DEFAULT_EMBEDDER])
def test_the_default_embedder_fetches_nothing_before_the_first_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MEMAGENT_EMBEDDER", value)
    notices: list[str] = []
    embedder = load_embedder(tmp_path, notify=notices.append)
    assert (embedder.name, embedder.dimension) == (DEFAULT_EMBEDDER, 384)
    assert embedder.digest == CATALOGUE[DEFAULT_EMBEDDER].weights.sha256
    assert notices == []
    assert not any(tmp_path.iterdir())


def test_an_unknown_embedder_suggests_the_near_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_EMBEDDER", "hashign")
    with pytest.raises(NotFoundError, match=r"no embedder 'hashign'\. Did you mean hashing\?"):
        load_embedder(tmp_path, notify=print)


def test_a_chat_model_is_no_embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_EMBEDDER", "smollm2-135m")
    with pytest.raises(NotFoundError, match=DEFAULT_EMBEDDER):
        load_embedder(tmp_path, notify=print)


def test_markers_in_a_text_are_embedded_as_letters(tmp_path: Path) -> None:
    tokenizer = KINDS["word_pieces"]()
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    embedder = encoder(lambda: tmp_path)
    read: list[int] = []
    hook = embedder._model.register_forward_pre_hook(
        lambda module, positional, named: read.extend(named["input_ids"].flatten().tolist()), with_kwargs=True
    )
    embedder.embed(["a [SEP] b [MASK]"])
    hook.remove()
    assert tokenizer.convert_ids_to_tokens(read) == [
        *("[CLS]", "a", "[", "s", "##e", "##p", "]"),
        *("b", "[", "m", "##a", "##s", "##k", "]", "[SEP]"),
    ]


# MiniLM


def test_sentences_are_unit_vectors(minilm: SentenceEncoder) -> None:
    vectors = minilm.embed([*TEXTS, ""])
    assert vectors.shape == (len(TEXTS) + 1, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_a_vector_does_not_depend_on_what_is_embedded_with_it(minilm: SentenceEncoder) -> None:
    together = minilm.embed(TEXTS * 8)
    for text, vector in zip(TEXTS, together, strict=False):
        np.testing.assert_allclose(minilm.embed([text])[0], vector, atol=1e-5)
    np.testing.assert_allclose(minilm.embed(TEXTS[::-1])[::-1], together[: len(TEXTS)], atol=1e-5)


def test_a_question_is_more_like_its_answer_than_like_another_fact(minilm: SentenceEncoder) -> None:
    question = "What is my dog's name?"
    assert similarity(minilm, question, TEXTS[0]) > 0.5 > similarity(minilm, question, TEXTS[1])


def test_a_text_is_read_up_to_its_256th_token(minilm: SentenceEncoder) -> None:
    long = "the dog and the cat " * 80
    assert similarity(minilm, long, long + "porto lisbon " * 50) == pytest.approx(1.0, abs=1e-5)
    assert similarity(minilm, "the dog", "the dog porto lisbon") < 0.99


def test_no_sentences_make_no_vectors(minilm: SentenceEncoder) -> None:
    assert minilm.embed([]).shape == (0, 384)
