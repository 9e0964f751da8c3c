"""The record of a run: its folder, its rows, and how it goes on after a death."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from memagent.agent.evaluation import run as run_module
from memagent.agent.evaluation.datasets.locomo import load
from memagent.agent.evaluation.rows import JudgeRow
from memagent.agent.evaluation.run import Plan, Run, code_digest
from memagent.backends.errors import BusyError, StorageError
from tests.agent.evaluation.datasets.files import LOCOMO, locomo_file, write


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(load(locomo_file(tmp_path)), {"none": {}}, "hashing 1")


def row(item: str, reply: str = "a reply") -> JudgeRow:
    return JudgeRow(
        method="none", case="c", item=item, category="1", answerable=True, abstained=False, reply=reply
    )


def folder_of(plan: Plan, runs: Path) -> Path:
    with Run(plan, runs) as run:
        return run.folder


def test_what_is_added_is_there_the_next_time(tmp_path: Path, plan: Plan) -> None:
    with Run(plan, tmp_path) as run:
        assert (run.resumed, run.rows) == (0, [])
        run.add(row("0", reply="ä\u2028\r\n"))
        begun = run.manifest.begun
        assert run.has("judge", "none", "c", "0")
        assert not run.has("rank", "none", "c", "0")
        # Another process would see it now.
        assert len((run.folder / "rows.jsonl").read_bytes().splitlines()) == 1
    with Run(plan, tmp_path) as run:
        assert (run.resumed, run.rows) == (1, [row("0", reply="ä\u2028\r\n")])
        assert run.has("judge", "none", "c", "0")
        assert run.manifest.begun == begun


@pytest.mark.parametrize("torn", [b'{"kind": "ra', b"{", '{"text": "ä'.encode()[:-1], b'{"kind": "rank"}'])
def test_a_last_line_that_was_torn_is_cut_off(tmp_path: Path, plan: Plan, torn: bytes) -> None:
    with Run(plan, tmp_path) as run:
        run.add(row("0"))
    rows = run.folder / "rows.jsonl"
    rows.write_bytes(rows.read_bytes() + torn)
    with Run(plan, tmp_path) as run:
        assert run.rows == [row("0")]
        run.add(row("1"))
    assert [json.loads(line)["item"] for line in rows.read_text().splitlines()] == ["0", "1"]


@pytest.mark.parametrize("line", [b"\0\0\0\0\n", b'{"kind": "rank"}\n', b'{"kind": "smell"}\n'])
def test_a_damaged_line_within_the_rows_is_reported_as_such(tmp_path: Path, plan: Plan, line: bytes) -> None:
    with Run(plan, tmp_path) as run:
        run.add(row("0"))
    rows = run.folder / "rows.jsonl"
    rows.write_bytes(line + rows.read_bytes())
    with pytest.raises(StorageError, match="Start over with --fresh"):
        Run(plan, tmp_path)
    with Run(plan, tmp_path, fresh=True) as run:
        assert run.resumed == 0


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"benchmark": 1}'])
def test_a_damaged_manifest_is_reported_as_such(tmp_path: Path, plan: Plan, content: bytes) -> None:
    (folder_of(plan, tmp_path) / "manifest.json").write_bytes(content)
    with pytest.raises(StorageError, match="Start over with --fresh"):
        Run(plan, tmp_path)
    with Run(plan, tmp_path, fresh=True) as run:
        assert run.resumed == 0


def test_a_finished_run_leaves_its_result_and_the_next_begins_anew(tmp_path: Path, plan: Plan) -> None:
    with Run(plan, tmp_path) as run:
        run.add(row("0"))
        run.home("none").mkdir(parents=True)
        run.finish({"results": [1]})
    assert json.loads((run.folder / "result.json").read_text()) == {"results": [1]}
    assert not (run.folder / "homes").exists()
    assert (run.folder / "rows.jsonl").stat().st_size > 0
    with Run(plan, tmp_path) as again:
        assert (again.folder, again.resumed, again.rows) == (run.folder, 0, [])
        assert not (again.folder / "result.json").exists()


def test_fresh_forgets_what_was_measured(tmp_path: Path, plan: Plan) -> None:
    with Run(plan, tmp_path) as run:
        run.add(row("0"))
        run.home("none").mkdir(parents=True)
    with Run(plan, tmp_path, fresh=True) as run:
        assert (run.resumed, run.rows) == (0, [])
        assert not run.home("none").exists()


def test_a_second_run_of_the_same_is_refused(tmp_path: Path, plan: Plan) -> None:
    with Run(plan, tmp_path) as run:
        run.add(row("0"))
        with pytest.raises(BusyError, match="Another process is measuring just this"):
            Run(plan, tmp_path, fresh=True)
        with Run(replace(plan, seed=1), tmp_path) as other:
            assert other.folder != run.folder
    with Run(plan, tmp_path) as run:
        assert run.resumed == 1


def test_a_failure_gives_the_run_back(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(ValueError, match="stop"), Run(plan, tmp_path):
        raise ValueError("stop")
    with Run(plan, tmp_path) as run:
        assert run.resumed == 0


def test_all_that_figures_depend_on_is_in_the_name(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load(write(tmp_path / "other.json", LOCOMO[:1]))
    plans = [
        plan,
        replace(plan, dataset=other),
        replace(plan, backends={"in_memory": {}}),
        replace(plan, backends={"none": {"a": "1"}}),
        replace(plan, embedder="hashing 2"),
        replace(plan, seed=1),
        replace(plan, sample=2),
        replace(plan, answers=True, model="echo"),
        replace(plan, answers=True, model="other"),
        replace(plan, answers=True, model="echo", channel="text"),
    ]
    folders = [folder_of(other_plan, tmp_path / "runs") for other_plan in plans]
    monkeypatch.setattr(run_module, "code_digest", lambda: "other code")
    folders.append(folder_of(plan, tmp_path / "runs"))
    monkeypatch.setattr(run_module, "versions", lambda: {"torch": "0"})
    folders.append(folder_of(plan, tmp_path / "runs"))
    assert len(set(folders)) == len(folders)
    assert all(folder.name.startswith("locomo-") for folder in folders)


def test_a_model_that_is_not_asked_does_not_matter(tmp_path: Path, plan: Plan) -> None:
    assert folder_of(plan, tmp_path) == folder_of(replace(plan, model="other"), tmp_path)


def test_the_manifest_says_what_was_asked_for(tmp_path: Path, plan: Plan) -> None:
    with Run(plan, tmp_path) as run:
        manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest == run.manifest.model_dump()
    data = manifest["data"]
    assert (data["file"], data["cases"], data["turns"], data["questions"]) == ("locomo10.json", 2, 8, 6)
    assert manifest["code"] == code_digest()
    assert {"memagent", "python", "numpy"} <= set(manifest["versions"])


def test_a_run_is_private(tmp_path: Path, plan: Plan) -> None:
    assert folder_of(plan, tmp_path / "runs").stat().st_mode & 0o077 == 0
