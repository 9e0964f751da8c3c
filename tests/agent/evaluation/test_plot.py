"""The picture of a comparison."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.evaluation.plot import check_matplotlib, check_path, plot
from memagent.agent.evaluation.report import Cost, Recall, Result, Summary
from memagent.agent.evaluation.run import DataDescription, Manifest
from memagent.backends.errors import InputError, MissingExtraError

RECALL = Recall(3, {1: 0.1, 5: 0.2, 10: 0.4, 20: 0.5})
NO_RECALL = Recall(0, dict.fromkeys((1, 5, 10, 20)))
NO_COST = Cost(*[None] * 6)
COST = replace(NO_COST, write_ms_per_turn=0.02, recall_ms_median=12.0)
MANIFEST = Manifest(
    benchmark="locomo",
    data=DataDescription(file="locomo10.json", sha256="0" * 64, cases=2, turns=1234, questions=6),
    backends={},
    embedder="hashing 1",
    seed=0,
    sample=None,
    answers=None,
    model=None,
    versions={},
    code="",
    begun="2026-03-01T12:00:00+00:00",
    machine="a machine",
)


def result(backend: str, **values: Any) -> Result:
    by_category = {"1": RECALL, "temporal": RECALL}
    return replace(Result(backend, "turn", "1-4", RECALL, 0.3, by_category), **values)


SUMMARY = Summary(
    MANIFEST,
    [
        result("chance"),
        result("bm25", cost=COST),
        result("none", cost=replace(NO_COST, write_ms_per_turn=0.0)),
        result("in_memory", cost=COST),
        result("rag", cost=COST),
        result("rag", level="session"),
    ],
    [],
)


@pytest.mark.parametrize(
    ("name", "head"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("A.PNG", b"\x89PNG")]
)
def test_a_picture_is_written_by_its_suffix(tmp_path: Path, name: str, head: bytes) -> None:
    plot(SUMMARY, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(head)


@pytest.mark.parametrize("name", ["a.jpg", "a", "png", "a.json"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected a file that ends in \.png, \.svg, \.pdf"):
        check_path(tmp_path / name)
    with pytest.raises(InputError):
        plot(SUMMARY, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        check_path(tmp_path / "missing" / "a.png")


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match=r"cannot be written: Is a directory"):
        plot(SUMMARY, tmp_path / "a.png")


def test_many_memories_are_drawn(tmp_path: Path) -> None:
    many = replace(SUMMARY, results=[result(f"memory{number}", cost=COST) for number in range(9)])
    plot(many, tmp_path / "many.svg")
    assert (tmp_path / "many.svg").exists()


def test_a_result_without_evidence_cannot_be_drawn(tmp_path: Path) -> None:
    """As a sample of unanswerable questions gives."""
    results = [replace(each, total=NO_RECALL, mrr=None, by_category={}) for each in SUMMARY.results]
    with pytest.raises(InputError, match="nothing to draw"):
        plot(replace(SUMMARY, results=results), tmp_path / "empty.png")


def test_without_matplotlib_the_message_holds_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (check_matplotlib, lambda: plot(SUMMARY, tmp_path / "a.png")):
        with pytest.raises(MissingExtraError) as raised:
            draw()
        assert str(raised.value) == (
            "--plot needs the Python module matplotlib, which is not installed: "
            "`pip install 'memagent[plot]'` installs it."
        )
    assert list(tmp_path.iterdir()) == []
