"""What the RoPE memory map stores: loaded again, damaged, of another model, killed while it is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memagent.agent.home import Home
from memagent.backends.errors import CheckpointError, SettingError
from memagent.backends.shared.tokens import TextTokenizer
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.conftest import MakeMap, OpenTiny
from tests.backends.rope_map.facts import FACTS, PROMPT, QUESTION, codes_below, contents
from tests.backends.rope_map.tiny import Tiny, logits, tiny
from tests.backends.tiny_tokenizers import CALL, KINDS
from tests.backends.turns import make_turn

# saving and loading


def test_a_loaded_state_recalls_and_attends_the_same(make_map: MakeMap, tmp_path: Path) -> None:
    backend, local = make_map(*FACTS), tiny()
    (tmp_path / "saved").mkdir()
    backend.save(tmp_path / "saved")
    before = contents(tmp_path / "saved")
    loaded = make_map(saved=tmp_path / "saved")
    assert loaded.recall(QUESTION, limit=9) == backend.recall(QUESTION, limit=9)
    with backend.attached(local, QUESTION):
        expected = logits(local.model, PROMPT)
    with loaded.attached(local, QUESTION):
        assert torch.equal(logits(local.model, PROMPT), expected)
    loaded.forget([1])
    loaded.remember([make_turn(9, "New.")])
    loaded.consolidate()
    assert contents(tmp_path / "saved") == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("turns.jsonl", None),
        ("turns.jsonl", b"{\n"),
        ("turns.jsonl", b""),
        ("index.safetensors", None),
        ("index.safetensors", b"garbage" * 99),
        ("pages", None),
        ("pages", b"garbage" * 99),
    ],
)
def test_a_damaged_state_is_refused(
    make_map: MakeMap, tmp_path: Path, name: str, content: bytes | None
) -> None:
    (tmp_path / "saved").mkdir()
    make_map(*FACTS).save(tmp_path / "saved")
    path = tmp_path / "saved" / name
    if path.is_dir():
        (path,) = path.iterdir()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError):
        make_map(saved=tmp_path / "saved")


def test_a_state_whose_pages_hold_control_tokens_is_refused(
    make_map: MakeMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_before(self: TextTokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoding["input_ids"], encoding["offset_mapping"]

    tokenizer = KINDS["byte_level"]()
    local = Tiny("own", "own", make.model_of(make.config()), tokenizer)
    (tmp_path / "saved").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(TextTokenizer, "encode_with_offsets", as_before)
        make_map(f"My dog is {CALL} called Biscuit.", local=local).save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="other tokens than its turns"):
        make_map(local=local, saved=tmp_path / "saved")


# as the agent opens it


def remember_facts(open_tiny: OpenTiny, settings: dict[str, str] | None = None) -> None:
    with open_tiny(settings) as memory:
        for text in FACTS:
            memory.remember("monday", "user", text)
        memory.checkpoint()


def test_a_damaged_page_in_the_stored_state_is_rebuilt_and_said(open_tiny: OpenTiny, tiny_home: Home) -> None:
    remember_facts(open_tiny)
    (page, *_) = tiny_home.backend_folder("ana", "rope_map").glob("0*/pages/*")
    page.write_bytes(page.read_bytes()[:-1] + b"?")
    messages: list[str] = []
    memory = open_tiny(notify=messages.append)
    assert "rebuilt from the journal" in messages[0]
    assert memory.stats().items == len(FACTS)
    assert len(memory.recall(QUESTION, limit=9)) == len(FACTS)


def test_a_state_of_another_model_or_setting_is_refused_and_kept_until_it_is_rebuilt(
    open_tiny: OpenTiny, tiny_home: Home
) -> None:
    remember_facts(open_tiny)
    folder = tiny_home.backend_folder("ana", "rope_map")
    before, other = contents(folder), tiny("llama", 1)
    for key, settings, local in (
        ("model", {}, other),
        ("precision", {"precision": "int8"}, None),
        ("context", {"context": "1"}, None),
    ):
        with pytest.raises(CheckpointError, match=rf"its.* {key} is .*memagent backends rebuild rope_map"):
            open_tiny(settings, local)
        assert contents(folder) == before
    with open_tiny() as memory:  # with what it was made with, it opens
        assert memory.stats().items == len(FACTS)
    with open_tiny({"precision": "int8"}, other, fresh=True) as memory:
        assert memory.stats().items == len(FACTS)
        assert memory.stats().extras["precision"] == "int8"
        memory.checkpoint()
    with pytest.raises(CheckpointError, match="model"):
        open_tiny()
    with open_tiny({"precision": "int8"}, other) as memory:
        assert memory.stats().extras["model"] == "tiny-llama-1"


def test_settings_that_a_state_does_not_depend_on_can_change(open_tiny: OpenTiny) -> None:
    remember_facts(open_tiny)
    messages: list[str] = []
    settings = {"mode": "token", "chunks": "1", "placement": "fixed", "offset": "9", "cache_mb": "1"}
    with open_tiny(settings, notify=messages.append) as memory:
        assert memory.stats().items == len(FACTS)
    assert messages == []


def test_a_model_that_cannot_be_used_does_not_cost_the_stored_state(
    open_tiny: OpenTiny, tiny_home: Home
) -> None:
    from transformers import GPT2Config

    remember_facts(open_tiny)
    folder = tiny_home.backend_folder("ana", "rope_map")
    before = contents(folder)
    unfit = make.model_of(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50))
    with pytest.raises(SettingError, match="gpt2"):
        open_tiny({}, Tiny("unfit", "unfit", unfit, make.tokenizer()), fresh=True)
    assert contents(folder) == before


def test_forgotten_turns_leave_the_stored_state_too(open_tiny: OpenTiny, tiny_home: Home) -> None:
    remember_facts(open_tiny)
    folder = tiny_home.backend_folder("ana", "rope_map")
    (pages,) = folder.glob("0*/pages")
    forgotten = codes_below(pages)[1]
    with open_tiny() as memory:
        memory.forget([2])
        assert not any(forgotten in content for content in contents(folder).values())
        assert not any(b"Porto" in content for content in contents(folder).values())
        assert memory.stats().items == len(FACTS) - 1


def test_a_model_is_calibrated_once(open_tiny: OpenTiny, calibrations: list[int]) -> None:
    for _ in range(3):
        remember_facts(open_tiny)
    assert len(calibrations) == 1


def test_a_damaged_calibration_is_made_again(
    open_tiny: OpenTiny, tiny_home: Home, calibrations: list[int]
) -> None:
    remember_facts(open_tiny)
    (kept,) = (tiny_home.models / "derived").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(b"damaged")
    before = len(calibrations)
    with open_tiny() as memory:
        assert len(memory.recall(QUESTION, limit=9)) == len(FACTS)
    assert len(calibrations) == before + 1
    assert kept.read_bytes() == whole


WRITER = """
import sys
from pathlib import Path
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.backends.rope_map import calibration
from tests.backends.rope_map import tiny
calibration.calibrate = lambda *_: tiny.calibrated_heads()
home = Home(Path(sys.argv[1]), Path(sys.argv[2]))
with Memory.open(home, "ana", "rope_map", {"abstain": "false"}, make_model=tiny.tiny) as memory:
    for place in range(1_000_000):
        turn = memory.remember("monday", "user", f"The bird number {place} was called K{place}.")
        print(turn.seq, flush=True)
        if place % 4 == 3:
            memory.checkpoint()
"""


def test_a_writer_that_is_killed_loses_no_turn(open_tiny: OpenTiny, tiny_home: Home) -> None:
    acknowledged = 0
    for enough in (3, 12):  # before and after a state was stored
        command = [sys.executable, "-c", WRITER, str(tiny_home.root), str(tiny_home.models)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged >= enough:
                os.kill(writer.pid, signal.SIGKILL)
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
    messages: list[str] = []
    memory = open_tiny(notify=messages.append)
    assert messages == []
    assert memory.journal.count() >= acknowledged >= 12
    assert memory.stats().items == memory.journal.count()
    seqs = {seq for item in memory.recall(QUESTION, limit=1000) for seq in item.seqs}
    assert seqs == set(range(1, memory.journal.count() + 1))
