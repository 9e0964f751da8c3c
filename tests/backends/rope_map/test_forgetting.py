"""What the RoPE memory map holds after forgetting, and after its page files are merged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memagent.backends.shared.attention.quantization import Precision
from tests.backends.rope_map.conftest import MakeMap
from tests.backends.rope_map.facts import FACTS, QUESTION, by_turn, scores
from tests.backends.turns import make_turn


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_forgetting_a_turn_reads_only_those_after_it_again(make_map: MakeMap, precision: Precision) -> None:
    backend = make_map(*FACTS, context=2, precision=precision)
    backend.remember(
        [make_turn(7, "Something else.", session="tuesday"), make_turn(8, "And more.", session="tuesday")]
    )
    before = by_turn(backend)
    assert backend.forget([2]) is True
    after = by_turn(backend)
    assert after.keys() == before.keys() - {2}
    assert {seq for seq in after if after[seq] != before[seq]} == {3, 4}
    whole = b"".join(path.read_bytes() for path in backend._resources.workspace.rglob("*.safetensors"))
    assert not any(code in whole for seq in (2, 3, 4) for code in before[seq])


@pytest.mark.parametrize("forgotten", [[2], [1, 3], [6], [7], [1, 2, 3, 4, 5, 6, 7]], ids=str)
def test_forgetting_gives_the_same_as_a_memory_without_these_turns(
    make_map: MakeMap, forgotten: list[int]
) -> None:
    long = "A long story that is told at length. " * 30
    turns = [make_turn(seq, text) for seq, text in enumerate([*FACTS[:3], long, *FACTS[3:]], start=1)]
    backend, rebuilt = make_map(context=2), make_map(context=2)
    backend.remember(turns)
    assert backend.forget([*forgotten, 99])
    rebuilt.remember([turn for turn in turns if turn.seq not in forgotten])
    numbers = backend._chunks.numbers(), rebuilt._chunks.numbers()
    assert len(numbers[0]) == len(numbers[1])
    for number, rebuilt_number in zip(*numbers, strict=True):
        assert backend._chunks[number] == rebuilt._chunks[rebuilt_number]
        kept, expected = backend._pages.get(number), rebuilt._pages.get(rebuilt_number)
        assert torch.equal(kept.keys, expected.keys)
        assert torch.equal(kept.values, expected.values)
    assert scores(backend) == pytest.approx(scores(rebuilt), abs=0.01)


def test_after_forgetting_the_last_turn_and_loading_new_turns_are_taken_in(
    make_map: MakeMap, tmp_path: Path
) -> None:
    backend = make_map(*FACTS)
    backend.forget([6])
    (tmp_path / "saved").mkdir()
    backend.save(tmp_path / "saved")
    loaded = make_map(saved=tmp_path / "saved")
    loaded.remember([make_turn(9, "My cat is called Crumb.")])
    backend.remember([make_turn(9, "My cat is called Crumb.")])
    assert "My cat is called Crumb." in scores(loaded)
    assert scores(loaded) == pytest.approx(scores(backend), abs=0.05)


def test_merging_page_files_changes_nothing_that_is_recalled(make_map: MakeMap) -> None:
    backend = make_map()
    for seq, text in enumerate(FACTS, start=1):
        backend.remember([make_turn(seq, text)])
    before, codes = backend.recall(QUESTION, limit=9), by_turn(backend)
    report = backend.consolidate()
    assert (report.before, report.after) == (6, 6)
    assert report.summary.startswith("6 page files became 1")
    assert backend.recall(QUESTION, limit=9) == before
    assert by_turn(backend) == codes
