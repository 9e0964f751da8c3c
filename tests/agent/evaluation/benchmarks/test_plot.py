"""The picture of a comparison."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.evaluation.benchmarks.plot import check_path, plot
from memagent.backends.errors import InputError

FIGURES = {"recall@1": 0.1, "recall@5": 0.2, "recall@10": 0.4, "recall@20": 0.5}


def row(backend: str, **values: Any) -> dict[str, Any]:
    by_category = {name: {"questions": 3, **FIGURES} for name in ("1", "temporal")}
    same = {"backend": backend, "level": "turn", "categories": "1-4", "questions": 6, "mrr": 0.3}
    return {**same, **FIGURES, "by_category": by_category, **values}


COST = {"write_ms_per_turn": 0.02, "recall_ms_median": 12.0}
SUMMARY: dict[str, Any] = {
    "manifest": {"benchmark": "locomo", "data": {"cases": 2, "turns": 1234}},
    "results": [
        row("chance"),
        row("bm25"),
        row("none", cost={"write_ms_per_turn": 0.0, "recall_ms_median": None}),
        row("in_memory", cost=COST),
        row("rag", cost=COST),
        {**row("rag"), "level": "session"},
    ],
}


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
    many = {**SUMMARY, "results": [row(f"memory{number}", cost=COST) for number in range(9)]}
    plot(many, tmp_path / "many.svg")
    assert (tmp_path / "many.svg").exists()


def test_a_result_without_evidence_cannot_be_drawn(tmp_path: Path) -> None:
    """As a sample of unanswerable questions gives."""
    empty = copy.deepcopy(SUMMARY)
    for one in empty["results"]:
        one.update(dict.fromkeys(FIGURES), questions=0, mrr=None, by_category={})
    with pytest.raises(InputError, match="nothing to draw"):
        plot(empty, tmp_path / "empty.png")
