"""A model's folder that is damaged: one sentence that names the file, before memory is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.models.folder import check_counts, check_folder, model_errors
from memagent.agent.models.loader import load_chat_model
from memagent.agent.models.local import LocalChatModel
from memagent.agent.models.runtime import torch
from memagent.backends.errors import ModelError
from tests.backends.rope_map.tiny import tiny


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as transformers saves it, in two files of weights."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny().model.save_pretrained(folder, max_shard_size="300KB")
    tiny().tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def folder(tmp_path: Path, master: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(master, tmp_path / "model"))


def refusal(folder: Path) -> str:
    """What the message is when the folder is named after --model: one sentence or two, in one line."""
    with pytest.raises(ModelError) as caught:
        load_chat_model(str(folder), folder / "models", notify=pytest.fail)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder), "FOLDER")


def with_config(folder: Path, **fields: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def first_weights(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def test_a_whole_folder_is_loaded(folder: Path) -> None:
    check_folder(folder)
    model = load_chat_model(str(folder), folder / "models", notify=pytest.fail)
    assert isinstance(model, LocalChatModel)
    assert model.window == 2048


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: not JSON (Expecting value: line 1 column 1 (char 0)). Fetch it again."),
        (
            b'{"a": 1,\n"b"',
            "is damaged: not JSON (Expecting ':' delimiter: line 2 column 4 (char 12)). Fetch it again.",
        ),
        (b"\xff\xfe{}", "is damaged: not JSON ('utf-8' codec can't decode"),
        (b"[1, 2]", "is damaged: expected a JSON object. Fetch it again."),
        (b"[" * 100_000, "is damaged: not JSON (maximum recursion depth exceeded"),
    ],
)
def test_a_damaged_json_file_is_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith(f"FOLDER/{name} {message}")


def test_a_missing_file_is_named(folder: Path) -> None:
    missing_file = first_weights(folder)
    missing_file.unlink()
    assert refusal(folder) == f"FOLDER is incomplete: {missing_file.name} is missing. Fetch it again."
    (folder / "config.json").unlink()
    assert refusal(folder) == "FOLDER holds no config.json; expected a model folder as transformers saves it."


@pytest.mark.parametrize("kept", [0, 4, 100, 5000])
def test_weights_that_are_cut_short_are_named(folder: Path, kept: int) -> None:
    file = first_weights(folder)
    file.write_bytes(file.read_bytes()[:kept])
    assert refusal(folder).startswith(f"FOLDER/{file.name} is damaged or cut short: ")


def test_weights_with_an_absurd_header_are_named(folder: Path) -> None:
    file = first_weights(folder)
    file.write_bytes((2**60).to_bytes(8, "little") + file.read_bytes()[8:])
    assert refusal(folder).startswith(f"FOLDER/{file.name} is damaged or cut short: ")


def test_weights_that_no_file_has_are_not_made_up(folder: Path) -> None:
    shutil.rmtree(folder)
    model = tiny("qwen3").model
    weights = {name: value for name, value in model.state_dict().items() if "layers.1.mlp.up" not in name}
    model.save_pretrained(folder, state_dict=weights)
    tiny().tokenizer.save_pretrained(folder)
    assert refusal(folder) == (
        "The model FOLDER is incomplete: its files lack the weights model.layers.1.mlp.up_proj.weight. Fetch it again."
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_hidden_layers": 2**31 - 1},
            "FOLDER is damaged: its config says num_hidden_layers = 2,147,483,647; expected at most ",
        ),
        (
            {"text_config": {"num_hidden_layers": 10**12}},
            "FOLDER is damaged: its config says num_hidden_layers = 1,000,000,000,000; expected at most ",
        ),
        (
            {"num_labels": 10**9},
            "FOLDER is damaged: its config says num_labels = 1,000,000,000; expected at most 100,000",
        ),
        ({"intermediate_size": 2**30}, "FOLDER is damaged: its config describes "),
        ({"vocab_size": 2**40}, "FOLDER is damaged: its config describes "),
        ({"hidden_size": 2**62}, "FOLDER/config.json cannot be used: "),
        (
            {"intermediate_size": 95},
            "The model FOLDER is incomplete: its files have in another shape the weights ",
        ),
        ({"num_attention_heads": 0}, "FOLDER/config.json cannot be used: "),
        ({"model_type": "nosuch"}, "FOLDER/config.json cannot be used: "),
        ({"hidden_size": "many"}, "FOLDER/config.json cannot be used: "),
        ({"max_position_embeddings": -5}, "The model FOLDER is damaged: its config has -5 positions."),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(
    folder: Path, fields: dict[str, Any], message: str
) -> None:
    assert refusal(with_config(folder, **fields)).startswith(message)


def test_code_that_lies_in_the_folder_is_not_run_and_nobody_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\n")
    monkeypatch.setattr("builtins.input", lambda *question: pytest.fail("asked"))
    message = refusal(with_config(folder, model_type="nosuch", auto_map={"AutoConfig": "code.Config"}))
    assert message.startswith("FOLDER/config.json cannot be used: ")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("fields", [{"model_max_length": "many"}, {"bos_token": [1]}, {"tokenizer_class": 5}])
def test_a_tokenizer_that_cannot_be_used_is_a_model_error(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "tokenizer_config.json").write_text(
        json.dumps(json.loads((folder / "tokenizer_config.json").read_text()) | fields)
    )
    assert refusal(folder).startswith("The model FOLDER cannot be loaded: ")


@pytest.mark.parametrize(
    "config",
    [
        {"block_count": 28, "vocab_size": 10**9, "context_length": 2**40},
        {"num_attention_heads": 128, "num_labels": 21_843, "use_cache": True, "n_positions": 2048},
        {"max_window_layers": 100, "rope_theta": 10**9, "nested": {"num_hidden_layers": 300}},
    ],
)
def test_sizes_in_use_pass(config: dict[str, Any]) -> None:
    check_counts(config, 300, "x")


class PanicException(BaseException):
    """As a panic in Rust comes out of tokenizers."""


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a"),
        RecursionError(),
        PanicException("it panicked\nat line 5"),
        torch.OutOfMemoryError("full."),
    ],
)
def test_whatever_is_raised_becomes_one_line(error: BaseException) -> None:
    with pytest.raises(ModelError) as caught, model_errors("The model x cannot be loaded", "Do this."):
        raise error
    message = str(caught.value)
    assert message.startswith(f"The model x cannot be loaded: {type(error).__name__}")
    assert message.endswith(". Do this.")
    assert ".." not in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ModelError("as it is")])
def test_what_is_meant_otherwise_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, model_errors("The model x cannot be loaded"):
        raise error
    assert caught.value is error
