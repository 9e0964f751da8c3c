"""Names of embedders, and several of them used as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_EMBEDDER
from memagent.agent.models.embedding import fetch_embedder, load_embedder
from memagent.agent.models.providers import ProviderEmbedder
from memagent.agent.models.sentence_encoder import SentenceEncoder
from memagent.backends.errors import ModelError, NotFoundError, SettingError
from memagent.backends.protocol import Embedder, Vectors
from memagent.backends.shared.joined_embedder import JoinedEmbedder, with_multilingual

TEXTS = ["My sister lives in Porto.", "The car is red.", "x"]
QUESTIONS = ["Where does my sister live?", "x"]


class RandomEmbedder:
    """Unit vectors that look random, and depend on the text and on whether it is a question."""

    def __init__(self, name: str, dimension: int, max_tokens: int = 100, digest: str = "") -> None:
        self.name, self.dimension, self.max_tokens = name, dimension, max_tokens
        self.digest = digest or name

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._draw(texts, seed=1)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self._draw(texts, seed=2)

    def _draw(self, texts: Sequence[str], seed: int) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            row[:] = np.random.default_rng([seed, self.dimension, *text.encode()]).normal(size=self.dimension)
            row /= np.linalg.norm(row)
        return vectors


PARTS = (RandomEmbedder("small", 3, 50), RandomEmbedder("large", 7, 20), RandomEmbedder("middle", 5))


# joining


@pytest.mark.parametrize("count", [2, 3])
def test_the_similarity_is_the_mean_of_the_parts_similarities(count: int) -> None:
    parts = PARTS[:count]
    joined = JoinedEmbedder(parts)
    expected = np.mean([part.embed_queries(QUESTIONS) @ part.embed(TEXTS).T for part in parts], axis=0)
    np.testing.assert_allclose(joined.embed_queries(QUESTIONS) @ joined.embed(TEXTS).T, expected, atol=1e-6)


def test_joined_vectors_have_length_1() -> None:
    vectors = JoinedEmbedder(PARTS).embed(TEXTS)
    assert vectors.shape == (3, 15)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_no_texts_make_no_joined_vectors() -> None:
    assert JoinedEmbedder(PARTS).embed([]).shape == (0, 15)


def test_name_dimension_and_limit_are_those_of_all_parts() -> None:
    joined = JoinedEmbedder(PARTS)
    assert (joined.name, joined.dimension, joined.max_tokens) == ("small+large+middle", 15, 20)


def test_the_first_letters_of_the_digest_depend_on_every_part() -> None:
    def joined(*digests: str) -> JoinedEmbedder:
        return JoinedEmbedder([RandomEmbedder("part", 3, digest=digest * 32) for digest in digests])

    lists = (("a", "b"), ("c", "b"), ("a", "c"), ("b", "a"))
    assert len({joined(*digests).digest[:8] for digests in lists}) == 4
    assert joined("a", "b").digest == joined("a", "b").digest


# names


def load(name: str, models: Path = Path("nowhere")) -> Embedder:
    return load_embedder(models, name, notify=pytest.fail)


def test_names_joined_by_plus_are_one_embedder() -> None:
    joined = load("hashing+multilingual")
    assert isinstance(joined, JoinedEmbedder)
    assert (joined.name, joined.dimension) == ("hashing+multilingual", 384 + 512)
    assert joined.embed(TEXTS).shape == (3, 896)


def test_the_default_is_the_small_english_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMAGENT_EMBEDDER", raising=False)
    assert load("").name == DEFAULT_EMBEDDER


@pytest.mark.parametrize(
    ("name", "joined"),
    [
        ("hashing", "hashing+multilingual"),
        ("multilingual", "multilingual"),
        ("multilingual+hashing", "multilingual+hashing"),
    ],
)
def test_the_multilingual_encoder_is_joined_once(name: str, joined: str) -> None:
    assert with_multilingual(load(name)).name == joined


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hashing+multilingul", r"no embedder 'multilingul'\. Did you mean multilingual\?"),
        (
            "hashing+nosuch",
            r"no embedder 'nosuch'\. Known: .*hashing, multilingual\. The folder of a sentence",
        ),
        ("hashing+", "no embedder ''"),
        ("+hashing", "no embedder ''"),
        ("hashing+smollm2-135m", "no embedder 'smollm2-135m'"),
        ("./nosuch/folder", "no embedder './nosuch/folder'"),
    ],
)
def test_an_unknown_part_is_refused_with_what_there_is(name: str, message: str) -> None:
    for refuse in (load, lambda name: fetch_embedder(Path("nowhere"), name, notify=pytest.fail)):
        with pytest.raises(NotFoundError, match=message):
            refuse(name)


def test_an_embedder_that_is_named_twice_is_refused() -> None:
    with pytest.raises(SettingError, match="hashing twice; name each once"):
        load("hashing+multilingual+hashing")


def test_a_folder_has_the_same_name_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("encoder").name == load("./encoder").name == load(str(tmp_path / "encoder")).name
    assert load("hashing+./encoder").name == f"hashing+{tmp_path / 'encoder'}"


def test_a_plus_in_a_folders_name_joins_nothing(tmp_path: Path) -> None:
    (tmp_path / "a+b").mkdir()
    assert load(str(tmp_path / "a+b")).name == str(tmp_path / "a+b")


def test_a_folder_with_the_name_of_a_chat_model_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "smollm2-135m").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("smollm2-135m").name == str(tmp_path / "smollm2-135m")


def test_a_file_is_no_embedder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="is no folder; expected one with a sentence encoder"):
        load(str(file)).embed(["x"])


def test_a_folder_without_a_model_is_refused_when_models_are_fetched(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no \.safetensors file"):
        fetch_embedder(tmp_path, f"hashing+{tmp_path}", notify=pytest.fail)


def test_a_hub_id_is_an_encoder_that_is_fetched_with_the_first_text() -> None:
    embedder = load("BAAI/bge-small-en-v1.5")
    assert isinstance(embedder, SentenceEncoder)
    assert embedder.name == "BAAI/bge-small-en-v1.5"


def test_provider_and_model_are_langchains(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def from_string(name: str) -> RandomEmbedder:
        names.append(name)
        return RandomEmbedder(name, 3)

    monkeypatch.setattr(ProviderEmbedder, "from_string", from_string)
    assert load("ollama:nomic-embed-text+hashing").dimension == 387
    assert names == ["ollama:nomic-embed-text"]


@pytest.mark.parametrize("name", [model.name for model in CATALOGUE.values() if model.kind == "embedder"])
def test_catalogue_embedders_know_their_sizes_without_files(name: str, tmp_path: Path) -> None:
    model, embedder = CATALOGUE[name], load(name, tmp_path)
    assert (embedder.dimension, embedder.max_tokens) == (model.dimension, model.max_tokens)
    assert embedder.digest == model.weights.sha256
    assert not any(tmp_path.iterdir())
