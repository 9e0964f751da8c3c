"""The header of a GGUF file: believed only as far as the bytes go."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from memagent.agent.models import convert
from memagent.agent.models.convert import ensure_converted
from memagent.agent.models.gguf_file import read_header
from memagent.agent.models.loader import load_chat_model
from memagent.backends.errors import MemagentError, ModelError
from tests.mutation import Mutator

A_HANG = 60.0
ABSURD = [2**20, 2**31 - 1, 2**32, 2**60, 2**63, 2**64 - 1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with values of all kinds and two tensors."""
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_bool("a.bool", True)
    writer.add_int64("a.int64", -5)
    writer.add_uint8("a.uint8", 7)
    writer.add_float64("a.float64", 0.5)
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_array("a.lists", [[1, 2], [3]])
    writer.add_token_list(["a", "é", "🦊"])
    writer.add_tensor("one", np.zeros((3, 4), dtype=np.float32))
    writer.add_tensor("two", np.zeros((5,), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refusal(file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_header(file)
    return str(caught.value).replace(str(file), "FILE")


def changed(file: Path, before: bytes, fresh: bytes, shift: int = 0) -> Path:
    """Write other bytes so many after the end of the first place of ``before``."""
    raw = bytearray(file.read_bytes())
    at = raw.index(before) + len(before) + shift
    raw[at : at + len(fresh)] = fresh
    file.write_bytes(raw)
    return file


def test_a_whole_file_says_what_it_holds(file: Path) -> None:
    header = read_header(file)
    assert dict(header.tensors) == {"one": 12, "two": 5}
    assert header.architecture_values == {
        "qwen2.block_count": 2,
        "qwen2.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
    }
    assert header.values["a.int64"] == -5
    assert header.values["a.bool"] is True
    assert header.values["tokenizer.ggml.tokens"] is None


def test_a_file_of_the_other_byte_order_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "qwen2", endianess=gguf.GGUFEndian.BIG)
    writer.add_block_count(2)
    writer.add_tensor("one", np.zeros((3, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_header(path).values["qwen2.block_count"] == 2


def test_what_is_not_gguf_is_told_from_what_is_damaged(file: Path) -> None:
    raw = file.read_bytes()
    for content in (b"", b"GG", b"garbage" * 100, b"\0" * 100):
        file.write_bytes(content)
        assert refusal(file) == "FILE is not a GGUF file: it does not begin with the letters GGUF."
    file.write_bytes(raw[:4] + struct.pack("<I", 1) + raw[8:])
    assert refusal(file) == "FILE is damaged or cut short: its version is 1, expected 2 or 3. Fetch it again."


def test_a_file_cut_anywhere_is_refused(file: Path) -> None:
    raw = file.read_bytes()
    last = raw.index(b"two") + 200  # tensors are padded at their end
    for length in range(4, min(last, len(raw) - 32)):
        file.write_bytes(raw[:length])
        assert refusal(file).startswith("FILE is damaged or cut short: ")


@pytest.mark.parametrize("number", ABSURD)
@pytest.mark.parametrize(
    ("before", "shift"),
    [
        (b"GGUF\x03\0\0\0", 0),  # tensors
        (b"GGUF\x03\0\0\0", 8),  # values
        (b"a.numbers", 8),  # the length of a list of numbers
        (b"a.lists", 8),
        (b"tokenizer.ggml.tokens", 8),
        (b"tokenizer.ggml.tokens", 16),  # the length of a token
        (b"general.architecture", 4),
    ],
)
def test_a_length_beyond_the_file_costs_nothing(file: Path, before: bytes, shift: int, number: int) -> None:
    changed(file, before, struct.pack("<Q", number), shift)
    tracemalloc.start()
    began = time.monotonic()
    message = refusal(file)
    seconds, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message.startswith("FILE is damaged or cut short: ")
    assert seconds < A_HANG
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("before", "shift", "fresh", "message"),
    [
        (b"one", 0, struct.pack("<I", 9), "the tensor 'one' has 9 dimensions"),
        (b"one", 4, struct.pack("<Q", 2**40), "the tensor 'one' ends at byte "),
        (b"one", 20, struct.pack("<I", 99), "the tensor 'one' is of the unknown kind 99"),
        (b"one", 24, struct.pack("<Q", 2**63), "the tensor 'one' ends at byte "),
        (b"two", 4, struct.pack("<Q", 60), "the tensor 'two' ends at byte "),
        (b"a.bool", 0, struct.pack("<I", 77), "'a.bool' is of the unknown kind 77"),
        (b"general.architectur", 0, b"x", "it names no general.architecture"),
    ],
)
def test_a_tensor_or_value_that_does_not_fit_is_named(
    file: Path, before: bytes, shift: int, fresh: bytes, message: str
) -> None:
    changed(file, before, fresh, shift)
    assert refusal(file).startswith(f"FILE is damaged or cut short: {message}")


def test_names_that_come_twice_are_refused(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw.replace(b"two", b"one"))
    assert "the tensor 'one' stands in it a second time" in refusal(file)
    file.write_bytes(raw.replace(b"a.numbers", b"a.float64", 1))
    assert "'a.float64' stands in it a second time" in refusal(file)


def test_a_damaged_header_is_a_header_or_a_model_error(file: Path) -> None:
    mutator = Mutator([file.read_bytes()], seed=5, tokens=[struct.pack("<Q", number) for number in ABSURD])
    good = 0
    for number in range(1500):
        file.write_bytes(b"GGUF" + mutator.mutation(number)[4:])
        try:
            read_header(file)
            good += 1
        except ModelError as error:
            message = str(error)
            assert len(message) < 500, number
    assert 10 < good < 1000


def test_a_header_that_is_wrong_is_refused_before_transformers_reads_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(convert, "_convert")
    changed(file, b"a.numbers", struct.pack("<Q", 2**60), 8)
    notices: list[str] = []
    with pytest.raises(ModelError, match="Fetch it again"):
        ensure_converted(file, "0" * 64, tmp_path / "models" / "x", notify=notices.append)
    assert notices == []


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "dangling"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.gguf"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(MemagentError, match="x.gguf"):
        load_chat_model(str(path), tmp_path / "models", notify=lambda notice: None)


def test_a_file_that_cannot_be_read_is_a_model_error(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *arguments: object, **named: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=r"a\.gguf cannot be read: Permission denied\."):
        load_chat_model(str(file), tmp_path / "models", notify=lambda notice: None)
