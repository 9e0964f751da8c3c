"""From what was typed after --model to a model, or to a message that helps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memagent.agent.models import hub as fetch
from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_MODEL
from memagent.agent.models.chat import ChatModel, Message, Sampling
from memagent.agent.models.fakes import EchoModel
from memagent.agent.models.loader import load_chat_model, transformers_folder
from memagent.backends.errors import MissingExtraError, ModelError, NotFoundError
from memagent.cli.main import app


@pytest.fixture(autouse=True)
def hub_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_HUB", ("127.0.0.1", 9))


def load(name: str, models: Path) -> ChatModel:
    return load_chat_model(name, models, notify=lambda notice: None)


def test_echo_needs_no_weights(tmp_path: Path) -> None:
    model = load("echo", tmp_path)
    assert isinstance(model, EchoModel)
    assert "".join(model.stream([Message("user", "a b\nc")], Sampling())) == "a b\nc"
    assert "".join(model.stream([Message("user", "a b\nc")], Sampling(max_tokens=2))) == "a b\n"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_suggests_the_near_one_and_the_other_ways(tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundError, match=r"no model 'qwen2\.5-coder'\. Did you mean qwen2\.5-coder-"
    ) as caught:
        load("qwen2.5-coder", tmp_path)
    assert "A path, owner/name of the hub or provider:model works too." in str(caught.value)


def test_a_name_like_nothing_lists_the_chat_models_only(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        load("xyzzy", tmp_path)
    message = str(caught.value)
    assert all((model.name in message) == (model.kind == "chat") for model in CATALOGUE.values())
    assert "echo" in message


def test_an_embedder_is_no_chat_model(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no model 'all-minilm-l6-v2'"):
        load("all-minilm-l6-v2", tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds no \.safetensors file; expected a model folder"):
        load(str(tmp_path), tmp_path / "models")


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors", "model"])
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(ModelError, match=r"is neither a folder nor a \.gguf file"):
        load(str(tmp_path / name), tmp_path / "models")


def test_a_gguf_file_that_does_not_exist_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no model 'models/missing.gguf'"):
        load("models/missing.gguf", tmp_path)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "a/b/c", "http://host/model", ":x", "Ollama:x", "x:"])
def test_what_has_no_meaning_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError):
        load(name, tmp_path)


def test_a_hub_model_without_the_hub_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="The model nobody/has-this-model cannot be loaded: ."):
        load("nobody/has-this-model", tmp_path)


@pytest.mark.parametrize("name", ["./missing", "../missing", "./missing.gguf"])
def test_a_relative_path_that_does_not_exist_is_not_taken_for_a_hub_id(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="A path, owner/name of the hub"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", ["~nobody-by-that-name", "x" * 300])
def test_a_name_no_path_can_have_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError):
        load(name, tmp_path)


@pytest.mark.parametrize("name", ["ollama:llama3.2", "openai:gpt-5-mini"])
def test_a_provider_without_langchain_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in ("langchain", "langchain.chat_models"):  # other tests may have loaded them
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingExtraError,
        match=r"needs the Python module langchain, .* `pip install 'memagent\[langchain\]'`",
    ):
        load(name, tmp_path)


def test_an_existing_path_goes_before_a_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ollama:llama3.2").mkdir()
    with pytest.raises(ModelError, match=r"holds no \.safetensors file"):
        load("ollama:llama3.2", tmp_path / "models")


def test_a_damaged_catalogue_model_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = CATALOGUE[DEFAULT_MODEL].folder(tmp_path)
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"half")
    with pytest.raises(ModelError, match="has 4 bytes, expected 491,400,064"):
        load(DEFAULT_MODEL, tmp_path)
    assert not transformers_folder(CATALOGUE[DEFAULT_MODEL], tmp_path).exists()


@pytest.mark.usefixtures("home")
def test_the_command_line_says_the_same(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["chat", "-p", "hi", "-b", "none", "--model", str(tmp_path)])
    assert isinstance(done.exception, ModelError)
    assert done.exit_code == 1
