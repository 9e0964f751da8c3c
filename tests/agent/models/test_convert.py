"""GGUF to safetensors: a real conversion of a tiny model, and what is found wrong with a converted one."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from memagent.agent.models import convert
from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.convert import ensure_converted, find_damage
from memagent.agent.models.hub import sha256_of
from memagent.agent.models.loader import load_chat_model
from memagent.agent.models.local import LocalChatModel
from memagent.agent.models.runtime import torch
from memagent.backends.errors import ModelError

WIDTH, LAYERS, HEADS, KEY_HEADS, INNER, WORDS = 32, 2, 4, 2, 64, 280
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """Random weights of a tiny Qwen2, by their names in a GGUF file."""
    rng = np.random.default_rng(0)
    key = KEY_HEADS * WIDTH // HEADS
    shapes = {
        "token_embd.weight": (WORDS, WIDTH),
        "output.weight": (WORDS, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm.weight": (WIDTH,),
                "ffn_norm.weight": (WIDTH,),
                "attn_q.weight": (WIDTH, WIDTH),
                "attn_k.weight": (key, WIDTH),
                "attn_v.weight": (key, WIDTH),
                "attn_output.weight": (WIDTH, WIDTH),
                "attn_q.bias": (WIDTH,),
                "attn_k.bias": (key,),
                "attn_v.bias": (key,),
                "ffn_gate.weight": (INNER, WIDTH),
                "ffn_up.weight": (INNER, WIDTH),
                "ffn_down.weight": (WIDTH, INNER),
            }.items()
        }
    return {name: rng.normal(size=shape).astype(np.float32) * 0.1 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, np.ndarray]) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    vocabulary, merges = _byte_pairs()
    assert len(vocabulary) == WORDS
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, value in weights.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory, gguf_file: Path) -> Path:
    """The tiny model, converted once for all tests."""
    target = tmp_path_factory.mktemp("models") / "transformers"
    return ensure_converted(gguf_file, sha256_of(gguf_file), target, notify=lambda notice: None)


@pytest.fixture
def ready(tmp_path: Path, master: Path) -> Path:
    """A copy of the converted model that a test may find_damage."""
    shutil.copytree(master, tmp_path / "transformers")
    return tmp_path / "transformers"


def _byte_pairs() -> tuple[list[str], list[str]]:
    """A byte-level vocabulary and its merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 10, trainer)
    bpe = json.loads(tokenizer.to_str())["model"]
    return sorted(bpe["vocab"], key=bpe["vocab"].get), [" ".join(pair) for pair in bpe["merges"]]


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)


# converting


def test_a_converted_model_speaks_and_keeps_its_weights(
    master: Path, gguf_file: Path, weights: dict[str, np.ndarray]
) -> None:
    model = LocalChatModel(master, name="tiny", digest="x")
    assert model.window == 512
    assert model.count([Message("user", "the fox")]) > 5
    assert list(model.stream([Message("user", "the fox")], Sampling(max_tokens=8)))
    found = model.model.model.layers[1].mlp.down_proj.weight.detach().cpu().to(torch.float32).numpy()
    np.testing.assert_allclose(found, weights["blk.1.ffn_down.weight"], rtol=1 / 128, atol=1e-6)
    assert not [path for path in gguf_file.parent.iterdir() if path != gguf_file]


def test_what_is_converted_is_not_converted_again(ready: Path, gguf_file: Path) -> None:
    notices: list[str] = []
    stamps = {path: path.stat().st_mtime_ns for path in ready.iterdir()}
    assert ensure_converted(gguf_file, sha256_of(gguf_file), ready, notify=notices.append) == ready
    assert notices == []
    assert {path: path.stat().st_mtime_ns for path in ready.iterdir()} == stamps


def test_a_damaged_one_is_converted_again(ready: Path, gguf_file: Path) -> None:
    notices: list[str] = []
    (ready / "model.safetensors").write_bytes(b"half")
    ensure_converted(gguf_file, sha256_of(gguf_file), ready, notify=notices.append)
    assert len(notices) == 1
    assert "model.safetensors has 4 bytes, expected" in notices[0]
    assert "converting it again" in notices[0]
    assert find_damage(ready, sha256_of(gguf_file), thorough=True) == ""


def test_a_gguf_file_by_its_path_is_converted_under_its_hash(gguf_file: Path, tmp_path: Path) -> None:
    notices: list[str] = []
    model = load_chat_model(str(gguf_file), tmp_path, notify=notices.append)
    assert model.name == str(gguf_file)
    assert isinstance(model, LocalChatModel)
    assert model.digest == sha256_of(gguf_file)
    assert [path.name for path in (tmp_path / "converted").iterdir() if path.is_dir()] == [model.digest[:16]]
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a GGUF file"),
        (b"garbage" * 100, "is not a GGUF file"),
        (b"GGUF\x03\0\0\0" + b"\0" * 16, "is damaged or cut short: it names no general.architecture"),
    ],
)
def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=f"bad.gguf {message}"):
        ensure_converted(file, sha256_of(file), tmp_path / "models" / "bad", notify=lambda notice: None)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "qwen2.block_count",
            2**31,
            "its config says qwen2.block_count = 2,147,483,648; expected at most 27",
        ),
        ("qwen2.block_count", 3, "its files lack the weights model.layers.2."),
        ("qwen2.feed_forward_length", 2**24, "its config describes "),
        ("qwen2.feed_forward_length", 2**32 - 1, "its config describes "),
        ("qwen2.feed_forward_length", 60, "its files have in another shape the weights model.layers.0.mlp."),
        ("qwen2.embedding_length", 2**32 - 1, "cannot be converted: "),
        ("qwen2.attention.head_count", 2**32 - 1, "its config says qwen2.attention.head_count"),
        ("qwen2.attention.head_count", 0, "cannot be converted: ZeroDivisionError"),
        ("qwen2.vocab_size", 2**30, "its config describes "),
    ],
)
def test_a_size_that_the_weights_do_not_have_is_refused_before_it_takes_memory(
    tmp_path: Path, gguf_file: Path, name: str, value: int, message: str
) -> None:
    file = tmp_path / "bad.gguf"
    raw = bytearray(gguf_file.read_bytes())
    at = raw.index(name.encode()) + len(name) + 4
    raw[at : at + 4] = value.to_bytes(4, "little")
    file.write_bytes(raw)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError) as caught:
        ensure_converted(file, sha256_of(file), tmp_path / "models" / "bad", notify=lambda notice: None)
    assert message in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_a_converted_model_is_used_from_a_folder_that_may_only_be_read(
    ready: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(convert, "create_private")
    monkeypatch.delattr(convert, "FileLock")
    assert ensure_converted(gguf_file, sha256_of(gguf_file), ready, notify=pytest.fail) == ready


def test_a_full_disk_is_a_model_error_and_leaves_nothing(
    tmp_path: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "_convert", fail)
    with pytest.raises(
        ModelError, match=r"cannot be stored in .*: No space left on device\. Free some space"
    ):
        ensure_converted(gguf_file, "0" * 64, tmp_path / "models" / "x", notify=lambda notice: None)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


# find_damage


def test_a_whole_one_has_no_damage(ready: Path, gguf_file: Path) -> None:
    assert find_damage(ready, sha256_of(gguf_file)) == ""
    assert find_damage(ready, sha256_of(gguf_file), thorough=True) == ""


def test_a_truncated_file_is_damage(ready: Path, gguf_file: Path) -> None:
    path = ready / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert (
        find_damage(ready, sha256_of(gguf_file))
        == f"model.safetensors has {size - 1:,} bytes, expected {size:,}"
    )


def test_a_flipped_byte_is_found_when_looked_at_thoroughly(ready: Path, gguf_file: Path) -> None:
    expected = sha256_of(ready / "model.safetensors")
    flip(ready / "model.safetensors", 5000)
    assert find_damage(ready, sha256_of(gguf_file)) == ""
    message = find_damage(ready, sha256_of(gguf_file), thorough=True)
    assert message.startswith("model.safetensors has SHA-256 ")
    assert message.endswith(f"expected {expected}")


def test_one_made_from_another_file_is_damage(ready: Path) -> None:
    assert "made from another file" in find_damage(ready, "0" * 64)


def test_one_of_another_version_is_damage(ready: Path, gguf_file: Path) -> None:
    manifest = json.loads((ready / "converted.json").read_text())
    (ready / "converted.json").write_text(json.dumps(manifest | {"format": 99}))
    assert "another version" in find_damage(ready, sha256_of(gguf_file))


def test_a_missing_file_and_a_missing_folder_are_damage(ready: Path, gguf_file: Path, tmp_path: Path) -> None:
    (ready / "tokenizer.json").unlink()
    assert "tokenizer.json" in find_damage(ready, sha256_of(gguf_file))
    assert find_damage(tmp_path / "nowhere", sha256_of(gguf_file)) != ""


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"text"', "[" * 100_000])
def test_a_list_of_files_that_cannot_be_read_is_damage(ready: Path, gguf_file: Path, content: str) -> None:
    (ready / "converted.json").write_text(content)
    assert "its list of files cannot be read" in find_damage(ready, sha256_of(gguf_file))


def test_a_list_of_files_of_another_shape_is_damage(ready: Path) -> None:
    (ready / "converted.json").write_text(json.dumps({"format": 1, "source_sha256": "x", "files": []}))
    assert find_damage(ready, "x") != ""
