"""No text of anyone else's commands the terminal or changes the order of what stands around it, by whatever way it gets out."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memagent.cli
from memagent.agent.home import Home
from memagent.agent.memory import open_journal
from memagent.backends import registry
from tests.agent.evaluation.datasets.files import LOCOMO, LONGMEMEVAL, write
from tests.cli.running import Done, Run, run

__all__ = ["run"]

# Clear the screen, retitle the window, ring, delete, C1's CSI, writing from right to left, a line of another kind.
EVIL = "Biscuit\x1b[2J\x1b]0;t\x07\x7f\x9b31m\u202ecod\u2066\u2028\r\x85"
# Arguments, variables and file names may also be no valid text.
RAW = f"{EVIL}\udce9"
FAKED = "\nError: faked"
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
OURS = re.compile(r"\x1b\[(\d+(;\d+)*m|\d*[KA]|\?25[hl])|\r")

TYPES = [f"[/]{EVIL}b", "[/]c"]
LINE = {"kind": "memagent", "format": 1, "user": "ana"}
TURN = {
    "kind": "turn",
    "seq": 1,
    "id": "0" * 32,
    "session": "monday",
    "role": "user",
    "text": EVIL,
    "created_at": "2026-03-01T09:30:00Z",
}
SCENARIO = f"""\
name: a dog is remembered
about: {json.dumps(EVIL)}
tags: [{json.dumps(EVIL)}]
steps:
- {{session: monday, say: {json.dumps(EVIL)}}}
- ask: {json.dumps(EVIL)}
  expect: {{recalled: {json.dumps(EVIL + "x")}, reply: {json.dumps(EVIL + "y")}}}
"""


@pytest.fixture(autouse=True)
def something_evil(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who was told something evil, a folder as of a user of an evil name, and files that commands below read."""
    monkeypatch.setenv("MEMAGENT_MODEL", "echo")
    monkeypatch.setenv("MEMAGENT_BACKEND", "in_memory")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with open_journal(home, "default") as journal:
        journal.append("monday", "user", EVIL)
    for name in (EVIL, f"ben{FAKED}"):
        home.user_folder(name).mkdir(mode=0o700)
        home.journal_file(name).touch(mode=0o600)
    for name in ("evil.recall.yaml", f"{RAW}.recall.yaml"):
        Path(name).write_text(SCENARIO, encoding="utf-8")
    Path("field.recall.yaml").write_text(f"name: a\n{json.dumps(EVIL)}: x\nsteps: [{{ask: q}}]\n", "utf-8")
    Path("twice.recall.yaml").write_text("name: a\n" + f"{json.dumps(EVIL)}: x\n" * 2, "utf-8")
    Path(RAW).write_text("not of any use", encoding="utf-8")
    for name, line in (
        ("good.jsonl", TURN),
        ("field.jsonl", {**TURN, EVIL: 1}),
        ("role.jsonl", {**TURN, "role": EVIL}),
        ("session.jsonl", {**TURN, "session": EVIL}),
        ("speaker.jsonl", {**TURN, "speaker": EVIL}),
        ("kind.jsonl", {**TURN, "kind": EVIL}),
        (f"{RAW}.jsonl", {}),
    ):
        Path(name).write_text(f"{json.dumps(LINE)}\n{json.dumps(line)}\n", encoding="utf-8")
    first = LONGMEMEVAL[0]
    locomo = json.loads(json.dumps(LOCOMO[:1]))
    locomo[0]["conversation"]["session_1"][0]["dia_id"] = EVIL
    locomo[0]["sample_id"] = EVIL
    for name, content in (
        (f"{RAW}.json", LOCOMO[:1]),
        ("ids.json", locomo),
        ("types.json", [{**first, "question_id": f"q{len(name)}", "question_type": name} for name in TYPES]),
        ("dates.json", [{**first, "haystack_dates": [EVIL] * 3}]),
    ):
        write(Path(name), content)


def check(done: Done, *, expects: str = "Biscuit") -> None:
    """Something evil was to be shown, and is, harmless."""
    out, err = done.stdout.decode(), done.stderr.decode()
    assert not UNSAFE.findall(out), out
    assert not UNSAFE.findall(err), err
    assert expects in out + err, out + err


COMMANDS = {
    "recall": ["recall", "Biscuit"],
    "show": ["sessions", "show", "monday"],
    "forget": ["forget", "--matching", "Biscuit"],
    "chat -p": ["chat", "-p", EVIL],
    "scenario list": ["scenario", "list", "evil.recall.yaml"],
    "scenario run": ["scenario", "run", "evil.recall.yaml"],
    "scenario file": ["scenario", "list", f"{RAW}.recall.yaml"],
    "no such scenario": ["scenario", "check", f"{RAW}.yml"],
    "no scenario": ["scenario", "check", RAW],
    "field": ["scenario", "check", "field.recall.yaml"],
    "twice": ["scenario", "check", "twice.recall.yaml"],
    "tag": ["scenario", "list", "evil.recall.yaml", "--tag", EVIL + "x"],
    "tags": ["scenario", "list", "evil.recall.yaml", "--tag", "x"],
    "import file": ["import", RAW],
    "import no file": ["import", f"{RAW}.nosuch"],
    "import field": ["import", "field.jsonl"],
    "import kind": ["import", "kind.jsonl"],
    "export to": ["export", f"{EVIL}.exported"],
    "export below a file": ["export", f"{RAW}/file"],
    "bench file": ["bench", "locomo", f"{RAW}.json", "--sample", "1"],
    "bench no file": ["bench", "locomo", f"{RAW}.nosuch"],
    "bench types": ["bench", "longmemeval", "types.json"],
    "plot": ["bench", "locomo", f"{RAW}.json", "--plot", RAW],
    "plot folder": ["bench", "locomo", f"{RAW}.json", "--plot", f"{RAW}x/y.png"],
    "model path": ["chat", "-p", "hi", "-m", f"./{RAW}"],
    "doctor": ["doctor"],
    "set": ["recall", "x", "--set", RAW],
    "extra": ["recall", "x", RAW],
    "option": ["recall", f"--{EVIL}"],
    "no backend": ["recall", "x", "-b", RAW],
    "no backend to show": ["backends", "show", RAW],
    "no setting": ["recall", "x", "--set", f"{RAW}=1"],
    "value": ["recall", "x", "--set", f"threshold={RAW}"],
    "no model": ["chat", "-p", "hi", "-m", f"{RAW}x"],
    "pull": ["models", "pull", RAW],
    "verify": ["models", "verify", RAW],
    "no session": ["sessions", "show", RAW],
    "session name": ["chat", "-p", "hi", "-s", RAW],
    "no user": ["recall", "x", "-u", f"{EVIL}x"],
    "near user": ["recall", "x", "-u", f"{EVIL[:-1]}"],
    "import role": ["import", "session.jsonl"],
    "import speaker": ["import", "speaker.jsonl"],
    "bench ids": ["bench", "locomo", "ids.json", "--sample", "1"],
    "bench date": ["bench", "longmemeval", "dates.json"],
    "choice": ["recall", "x", "-o", RAW],
    "command": [RAW],
    "subcommand": ["sessions", RAW],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_evil_text_is_shown_with_dots_or_escapes(run: Run, name: str) -> None:
    check(run(*COMMANDS[name]))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_gets_colours_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    done = run(*COMMANDS[name], terminal=True)
    shown = OURS.sub("", done.stdout.decode() + done.stderr.decode())
    assert not UNSAFE.findall(shown), shown
    assert "Biscuit" in shown


def test_the_chat_shows_evil_text_with_dots(run: Run) -> None:
    lines = [EVIL.rstrip("\r\x85"), "/why", f"/{EVIL}", "/forget last", "n", "/sessions"]
    done = run("chat", "-s", "tuesday", stdin="\n".join(lines).encode())
    check(done)
    assert done.stdout.count(b"Biscuit") >= 5


@pytest.mark.parametrize("variable", ["MEMAGENT_HOME", "MEMAGENT_MODELS"])
def test_folders_of_evil_names_are_shown_with_dots(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"{Path(RAW).absolute()}/below a file")
    check(run("models", "list") if variable == "MEMAGENT_MODELS" else run("remember", "x"))


@pytest.mark.parametrize(
    ("variable", "value", "arguments"),
    [
        ("MEMAGENT_JOURNAL", f"{RAW}://x", ["sessions"]),
        ("MEMAGENT_JOURNAL", f"sqlite:///{RAW}", ["sessions"]),
        ("MEMAGENT_EMBEDDER", RAW, ["recall", "x", "-b", "rag"]),
        ("MEMAGENT_BACKEND", RAW, ["recall", "x"]),
        ("MEMAGENT_USER", f"{EVIL}x", ["recall", "x"]),
        ("MEMAGENT_MODEL", RAW, ["chat", "-p", "hi"]),
    ],
)
def test_evil_variables_are_harmless(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, arguments: list[str]
) -> None:
    monkeypatch.setenv(variable, value)
    done = run(*arguments)
    check(done, expects="Error: ")
    assert done.exit_code == 1


def test_a_backend_of_an_evil_package_is_listed_and_described_with_dots(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from memagent.backends.in_memory import InMemory\nclass Backend(InMemory):\n    "
    for name, lines in (
        ("evil", source + repr(EVIL)),
        ("needy", f"raise ModuleNotFoundError(name={EVIL!r})"),
    ):
        (tmp_path / f"someones_{name}.py").write_text(lines)
        info = tmp_path / f"someones_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: someones-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[memagent.backends]\n{name} = someones_{name}:Backend\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run("backends", "list")
    check(done)
    assert done.stdout.count(b"Biscuit") == 2
    check(run("backends", "show", "evil"))


# JSON


def texts_of(found: list[dict[str, Any]]) -> list[str]:
    return [item["text"] for item in found]


JSON: dict[str, tuple[list[str], Callable[[Any], object], object]] = {
    "recall": (["recall", "Biscuit"], texts_of, [EVIL]),
    "show": (["sessions", "show", "monday"], texts_of, [EVIL]),
    "chat": (["chat", "-p", EVIL], lambda found: texts_of(found["recollections"]), [EVIL]),
    "scenarios": (["scenario", "list", "evil.recall.yaml"], lambda found: found[0]["tags"], [EVIL.strip()]),
    "scenario": (
        ["scenario", "run", "evil.recall.yaml"],
        lambda found: found["scenarios"][0]["probes"][0]["question"],
        EVIL,
    ),
    "file": (
        ["scenario", "list", f"{RAW}.recall.yaml"],
        lambda found: found[0]["file"],
        f"{RAW}.recall.yaml",
    ),
    "bench": (
        ["bench", "longmemeval", "types.json"],
        lambda found: sorted(found["results"][0]["by_category"]),
        TYPES,
    ),
    "doctor": (["doctor"], lambda found: any(EVIL in one["said"] for one in found), True),
}


@pytest.mark.parametrize("name", JSON)
def test_json_has_escapes_and_parses_to_the_same_text(run: Run, name: str) -> None:
    arguments, read, expected = JSON[name]
    done = run(*arguments, "-o", "json")
    assert not UNSAFE.findall(done.stdout.decode())
    assert read(json.loads(done.stdout)) == expected, done.stderr.decode()


@pytest.mark.parametrize("arguments", [["export", "-"], ["sessions", "export", "monday"]])
def test_an_export_to_standard_output_has_escapes_and_imports_to_the_same_text(
    run: Run, home: Home, arguments: list[str]
) -> None:
    done = run(*arguments)
    check(done, expects="\\u001b")
    Path("exported.jsonl").write_bytes(done.stdout)
    assert run("import", "exported.jsonl", "-u", "ben").exit_code == 0
    with open_journal(home, "ben") as journal:
        assert [turn.text for turn in journal.turns()] == [EVIL]


# lines


@pytest.mark.parametrize(
    "arguments",
    [
        ["scenario", "check", f"no{FAKED}"],
        ["import", f"no{FAKED}"],
        ["export", f"to{FAKED}/x"],
        ["recall", "x", "--set", f"x{FAKED}"],
        ["recall", "x", "-b", f"x{FAKED}"],
        ["recall", "x", f"extra{FAKED}"],
        ["chat", "-p", "hi", "-m", f"./good.jsonl{FAKED}"],
    ],
)
def test_a_newline_in_a_name_begins_no_line_that_looks_like_ours(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    lines = (done.stdout + done.stderr).decode().splitlines()
    assert done.exit_code in (1, 2)
    assert any("faked" in line for line in lines)
    assert not [line for line in lines if line.startswith("Error: faked")]


def test_a_newline_in_a_users_name_begins_no_line_of_the_doctors(run: Run) -> None:
    lines = run("doctor").stdout.decode().splitlines()
    assert any("faked" in line for line in lines)
    assert not [line for line in lines if line.startswith("Error: faked")]


def test_what_is_asked_before_forgetting_shows_no_turn_that_is_not_there(run: Run) -> None:
    run("remember", "harmless\n     9 2026-03-01 09:30 user: never said", "-s", "tuesday")
    done = run("forget", "--session", "tuesday")
    assert done.exit_code == 1
    assert b"never said" in done.stderr
    assert not re.search(rb"^ {5}9 ", done.stderr, re.MULTILINE)


# faults


def test_an_unexpected_exception_is_told_with_dots_and_whose_fault_it_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[str]:
        raise RuntimeError(EVIL)

    monkeypatch.setattr(registry, "names", fail)
    done = run("backends", "list")
    assert done.exit_code == 1
    assert done.stdout == b""
    check(done)
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any("RuntimeError: Biscuit" in line for line in lines)
    assert lines[-1].startswith("Error: This is a fault of memagent")


def test_an_interruption_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "names", interrupt)
    done = run("backends", "list")
    assert (done.exit_code, done.stdout, done.stderr) == (130, b"", b"")


# nothing else prints

_PRINTS = {"print", "echo", "secho", "confirm", "prompt", "progressbar", "pprint"}


def test_nothing_in_the_command_line_prints_but_by_its_own_output() -> None:
    folder = Path(str(memagent.cli.__file__)).parent
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in _PRINTS - {"confirm"}, where
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                assert node.value.id not in ("typer", "click", "rich") or node.attr not in _PRINTS, where
                if path.name not in ("output.py", "main.py"):
                    assert name not in ("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__"), where
            if isinstance(node, ast.ImportFrom) and path.name != "console.py":
                assert node.module not in (
                    "rich",
                    "rich.console",
                    "rich.table",
                    "rich.markup",
                    "rich.pretty",
                ), where
                assert node.module != "typer" or not {alias.name for alias in node.names} & _PRINTS, where
