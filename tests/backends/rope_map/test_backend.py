"""The RoPE memory map as a whole, in tiny random models: what it stores, forgets, attends to and refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from memagent.agent.forgetting import forget
from memagent.agent.home import Home
from memagent.backends.errors import CheckpointError, SettingError
from memagent.backends.rope_map import calibration
from memagent.backends.rope_map.backend import RopeMap
from memagent.backends.rope_map.quantize import Precision
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.conftest import MakeMap, OpenTiny
from tests.backends.rope_map.tiny import Tiny, logits, said, tiny, tokens

FACTS = [
    "My dog is called Biscuit.",
    "I live in Porto, near the river.",
    "My sister works as a nurse.",
    "I am allergic to peanuts.",
    "I bought a red bicycle last week.",
    "The sea at Tavira is warm in June.",
]
QUESTION = "What is my dog called?"
PROMPT = tokens(8, seed=1)


def by_turn(backend: RopeMap) -> dict[int, list[bytes]]:
    """What is stored of each turn's pieces, byte for byte."""
    found: dict[int, list[bytes]] = {}
    codes = codes_below(backend._resources.workspace / "pages")
    for number in backend._catalogue.numbers():
        found.setdefault(backend._catalogue[number].turn.seq, []).append(codes[number])
    return found


def codes_below(folder: Path) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for number, (start, end, _) in json.loads(file.metadata()["pieces"]).items():
                parts = [
                    file.get_slice(name)[start:end].contiguous() for name in ("keys.codes", "values.codes")
                ]
                found[int(number)] = b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "lock" not in path.name
    }


def scores(backend: RopeMap, query: str = QUESTION) -> dict[str, float]:
    return {item.text: item.score for item in backend.recall(query, limit=50)}


# recalling


def test_no_more_is_recalled_than_asked_for_best_first_and_each_turn_once(make_map: MakeMap) -> None:
    backend = make_map(*FACTS, "A long story. " * 100)
    for limit in (1, 2, 5, 50):
        found = backend.recall(QUESTION, limit=limit)
        assert len(found) == min(limit, 7)
        assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
        assert len({item.seqs for item in found}) == len(found)
    assert all("3 " in item.why and item.why.endswith(".") for item in found)


def test_an_abstaining_memory_returns_what_is_near_the_best_if_that_is_above_the_threshold(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = scores(make_map(*FACTS))
    best = max(everything.values())
    for threshold, expected in (
        (1e9, set()),
        (-1e9, {text for text in everything if everything[text] >= best - 3}),
    ):
        monkeypatch.setattr(calibration, "calibrate", lambda *_, at=threshold: make.addressing(at))
        backend = make_map(*FACTS, abstain=True)
        assert set(scores(backend)) == expected
        with backend.attached(tiny(), QUESTION) as attachment:
            assert {item.text for item in attachment.recollections} <= expected


def test_an_empty_memory_and_an_empty_question_recall_nothing(make_map: MakeMap) -> None:
    empty = make_map()
    assert empty.recall(QUESTION) == []
    before = logits(tiny().model, PROMPT)
    with empty.attached(tiny(), QUESTION) as attachment:
        assert attachment.recollections == []
        assert torch.equal(logits(tiny().model, PROMPT), before)


def test_turns_handed_over_twice_are_read_once(make_map: MakeMap) -> None:
    backend = make_map(*FACTS)
    before, stats = by_turn(backend), backend.stats()
    backend.remember([said(seq, text) for seq, text in enumerate(FACTS, start=1)])
    assert by_turn(backend) == before
    assert backend.stats() == stats


# attaching


@pytest.mark.parametrize("settings", [{}, {"placement": "fixed"}, {"mode": "token"}, {"spans": 1}], ids=str)
def test_attached_memory_changes_what_the_model_says_and_nothing_stays(
    make_map: MakeMap, settings: dict[str, str]
) -> None:
    backend, local = make_map(*FACTS, **settings), tiny()
    before = logits(local.model, PROMPT)
    with backend.attached(local, QUESTION) as attachment:
        inside = logits(local.model, PROMPT)
    assert not torch.equal(inside, before)
    assert torch.equal(logits(local.model, PROMPT), before)
    # Mode token attends to whatever is stored.
    shown = 0 if settings.get("mode") == "token" else int(settings.get("spans", 3))
    assert attachment.recollections == backend.recall(QUESTION)[:shown]
    assert attachment.seqs >= {seq for item in attachment.recollections for seq in item.seqs}
    if not shown:
        assert attachment.seqs == set(range(1, len(FACTS) + 1))
    with pytest.raises(ZeroDivisionError), backend.attached(local, QUESTION):
        raise ZeroDivisionError
    assert torch.equal(logits(local.model, PROMPT), before)


@pytest.mark.parametrize("mode", ["span", "token"])
def test_what_stands_in_the_prompt_is_not_attended_again(make_map: MakeMap, mode: str) -> None:
    backend, local = make_map(*FACTS, mode=mode, context=0), tiny()
    with backend.attached(local, QUESTION) as everything:
        pass
    best = max(everything.seqs)
    with backend.attached(local, QUESTION, exclude=[best]) as rest:
        pass
    assert best not in rest.seqs
    assert rest.seqs
    with backend.attached(local, QUESTION, exclude=range(1, 99)) as none:
        assert torch.equal(logits(local.model, PROMPT), logits(tiny().model, PROMPT))
    assert (none.recollections, none.seqs) == ([], frozenset())


def test_what_a_piece_was_read_after_counts_as_seen(make_map: MakeMap) -> None:
    backend, local = make_map(*FACTS, spans=1, context=2), tiny()
    with backend.attached(local, QUESTION) as attachment:
        pass
    (seq,) = attachment.recollections[0].seqs
    assert attachment.seqs == {one for one in (seq - 2, seq - 1, seq) if one > 0}


def test_another_model_is_refused_with_both_names(make_map: MakeMap) -> None:
    backend, other = make_map(*FACTS), tiny("llama", 1)
    with (
        pytest.raises(SettingError, match="tiny-llama-0; tiny-llama-1.*rebuild rope_map"),
        backend.attached(other, QUESTION),
    ):
        pass
    assert other.model.config._attn_implementation == "sdpa"


# figures


@pytest.mark.parametrize(("precision", "codes"), [("bf16", 384), ("int8", 192 + 12), ("int4", 96 + 12)])
def test_stats_tell_what_a_token_takes(make_map: MakeMap, precision: Precision, codes: int) -> None:
    """3 layers, 2 key heads of 16 components, keys and values; a scale of 2 bytes for each token's values."""
    stats = make_map(*FACTS, "A long story, told at length. " * 100, precision=precision).stats()
    assert stats.items == 7
    assert stats.tokens > 500
    assert stats.extras["pieces"] > 7  # type: ignore[operator]
    assert codes <= stats.extras["page_bytes_per_token"] < codes * 1.1 + 8  # type: ignore[operator]
    both = stats.extras["page_bytes_per_token"] + stats.extras["index_bytes_per_token"]  # type: ignore[operator]
    assert both == pytest.approx(stats.bytes_on_disk / stats.tokens, abs=1)
    assert stats.bytes_in_memory >= stats.tokens * 3 * 16 * 2
    assert (stats.extras["precision"], stats.extras["model"]) == (precision, "tiny-llama-0")
    assert stats.extras["addressing_heads"] == "(0,1)@64 (1,0)@128 (1,3)@256"
    assert make_map().stats().extras["page_bytes_per_token"] == 0


# forgetting


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_forgetting_a_turn_reads_only_those_after_it_anew(make_map: MakeMap, precision: Precision) -> None:
    backend = make_map(*FACTS, context=2, precision=precision)
    backend.remember([said(7, "Something else.", "tuesday"), said(8, "And more.", "tuesday")])
    before = by_turn(backend)
    assert backend.forget([2]) is True
    after = by_turn(backend)
    assert after.keys() == before.keys() - {2}
    assert {seq for seq in after if after[seq] != before[seq]} == {3, 4}
    whole = b"".join(path.read_bytes() for path in backend._resources.workspace.rglob("*.safetensors"))
    assert not any(code in whole for seq in (2, 3, 4) for code in before[seq])


@pytest.mark.parametrize("gone", [[2], [1, 3], [6], [7], [1, 2, 3, 4, 5, 6, 7]], ids=str)
def test_forgetting_gives_what_a_memory_holds_that_never_heard_it(make_map: MakeMap, gone: list[int]) -> None:
    long = "A long story that is told at length. " * 30
    told = [said(seq, text) for seq, text in enumerate([*FACTS[:3], long, *FACTS[3:]], start=1)]
    backend, rebuilt = make_map(context=2), make_map(context=2)
    backend.remember(told)
    assert backend.forget([*gone, 99])
    rebuilt.remember([turn for turn in told if turn.seq not in gone])
    numbers = backend._catalogue.numbers(), rebuilt._catalogue.numbers()
    assert len(numbers[0]) == len(numbers[1])
    for mine, theirs in zip(*numbers, strict=True):
        assert backend._catalogue[mine] == rebuilt._catalogue[theirs]
        found, expected = backend._pages.get(mine), rebuilt._pages.get(theirs)
        assert torch.equal(found.keys, expected.keys)
        assert torch.equal(found.values, expected.values)
    assert scores(backend) == pytest.approx(scores(rebuilt), abs=0.01)


def test_after_forgetting_the_last_turn_and_loading_new_turns_are_taken_in(
    make_map: MakeMap, tmp_path: Path
) -> None:
    backend = make_map(*FACTS)
    backend.forget([6])
    (tmp_path / "saved").mkdir()
    backend.save(tmp_path / "saved")
    loaded = make_map(saved=tmp_path / "saved")
    loaded.remember([said(9, "My cat is called Crumb.")])
    backend.remember([said(9, "My cat is called Crumb.")])
    assert "My cat is called Crumb." in scores(loaded)
    assert scores(loaded) == pytest.approx(scores(backend), abs=0.05)


def test_joining_page_files_changes_nothing_that_is_recalled(make_map: MakeMap) -> None:
    backend = make_map()
    for seq, text in enumerate(FACTS, start=1):
        backend.remember([said(seq, text)])
    before, codes = backend.recall(QUESTION, limit=9), by_turn(backend)
    report = backend.consolidate()
    assert (report.before, report.after) == (6, 6)
    assert report.summary.startswith("6 page files became 1")
    assert backend.recall(QUESTION, limit=9) == before
    assert by_turn(backend) == codes


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
    loaded.remember([said(9, "New.")])
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
    settings = {"mode": "token", "spans": "1", "placement": "fixed", "offset": "9", "cache_mb": "1"}
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


def test_what_is_forgotten_leaves_the_stored_state_too(open_tiny: OpenTiny, tiny_home: Home) -> None:
    remember_facts(open_tiny)
    folder = tiny_home.backend_folder("ana", "rope_map")
    (pages,) = folder.glob("0*/pages")
    gone = codes_below(pages)[1]
    with open_tiny() as memory:
        forget(memory, [2])
        assert not any(gone in content for content in contents(folder).values())
        assert not any(b"Porto" in content for content in contents(folder).values())
        assert memory.stats().items == len(FACTS) - 1


def test_a_model_is_calibrated_once(open_tiny: OpenTiny, learnt: list[int]) -> None:
    for _ in range(3):
        remember_facts(open_tiny)
    assert len(learnt) == 1


def test_a_calibration_that_was_damaged_is_learnt_again(
    open_tiny: OpenTiny, tiny_home: Home, learnt: list[int]
) -> None:
    remember_facts(open_tiny)
    (kept,) = (tiny_home.models / "derived").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(b"damaged")
    before = len(learnt)
    with open_tiny() as memory:
        assert len(memory.recall(QUESTION, limit=9)) == len(FACTS)
    assert len(learnt) == before + 1
    assert kept.read_bytes() == whole


WRITER = """
import sys
from pathlib import Path
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.backends.rope_map import calibration
from tests.backends.rope_map import tiny
calibration.calibrate = lambda *_: tiny.addressing()
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
    found = {item.seqs[0] for item in memory.recall(QUESTION, limit=1000)}
    assert found == set(range(1, memory.journal.count() + 1))
