"""README and docs say what is true: snippets run, options and files exist, links lead somewhere, pages are fresh.

Each page is read from top to bottom in an empty home and folder: what an earlier snippet wrote, a later one finds. The
model is ``echo``, embeddings are hashed words, and nothing is downloaded. A snippet after ``<!-- not run: REASON -->`` is
checked only. The package of docs/writing_a_backend.md is installed and passes its own test.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from memagent.agent.evaluation.scenarios import read as read_scenarios
from memagent.agent.home import Home
from memagent.agent.models.fakes import EchoModel
from memagent.backends import registry
from memagent.cli.main import app
from tests.cli.running import Run, run  # noqa: F401 - a fixture
from tests.markdown import Page, Snippet, read

ROOT = Path(__file__).parents[1]
PAGES = [read(path) for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))]
LANGUAGES = {"sh", "python", "yaml", "toml", "json", "text"}
# In code, these begin the path of a file in the repository.
FOLDERS = ("agent", "backends", "benchmarks", "cli", "docs", "examples", "kernels", "tests", ".ci", ".src")
COMMANDS: Any = typer.main.get_command(app)
SHELL_MARKS = {"&&", "||", ";", "|"}


def name_of(page: Page) -> str:
    return str(page.path.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


# What runs


@pytest.fixture
def reader(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who follows a page: empty, with no model but echo."""
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MEMAGENT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("MEMAGENT_MODEL", EchoModel.name)
    monkeypatch.setattr("memagent.agent.models.models.load_chat_model", lambda *_, **__: EchoModel())
    return folder


@every_page
def test_snippets_run(page: Page, reader: Path, run: Run) -> None:  # noqa: F811
    for snippet in page.snippets:
        if not snippet.runs:
            continue
        if snippet.language == "sh":
            for line in lines(snippet.text):
                run_line(line, run, snippet.place)
        elif snippet.language == "python":
            exec(compile(snippet.text, snippet.place, "exec"), {"__name__": "__main__"})  # noqa: S102


def run_line(line: list[str], run: Run, place: str) -> None:  # noqa: F811
    """Run one line of a shell: commands, pipes, ``< FILE`` and ``> FILE``. The first failure ends the test."""
    data = b""
    for words in pipeline(line):
        arguments, files = redirected(words)
        if "<" in files:
            data = Path(files["<"]).read_bytes()
        if arguments[0] == "memagent":
            done = run(*arguments[1:], stdin=data)
            assert done.exit_code == 0, f"{place}: {shlex.join(arguments)}\n{done.stderr.decode()}"
            data = done.stdout
        else:
            data = subprocess.run(arguments, input=data, capture_output=True, check=True).stdout
        if ">" in files:
            Path(files[">"]).write_bytes(data)


def lines(text: str) -> Iterator[list[str]]:
    """Yield the words of each line of a shell snippet, without comments; lines that end in a backslash go on."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        if words := list(lexer):
            yield words


def pipeline(words: list[str]) -> Iterator[list[str]]:
    """Split a line at the marks between its commands."""
    command: list[str] = []
    for word in (*words, ";"):
        if word not in SHELL_MARKS:
            command.append(word)
        elif command:
            yield command
            command = []


def redirected(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``< FILE`` and ``> FILE`` out of a command's words."""
    files = {mark: words[words.index(mark) + 1] for mark in "<>" if mark in words}
    return [word for word in words if word not in files and word not in files.values()], files


def test_the_backend_that_docs_show_keeps_the_contract(tmp_path: Path) -> None:
    page = next(page for page in PAGES if page.path.name == "writing_a_backend.md")
    names = ("latest_memory.py", "pyproject.toml", "test_latest_memory.py")
    for name, snippet in zip(names, page.snippets, strict=False):
        (tmp_path / name).write_text(snippet.text, encoding="utf-8")
    install(tmp_path)
    test = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_latest_memory.py"]
    assert " passed" in run_beside(tmp_path, *test)
    in_agent = next(snippet for snippet in page.snippets if "memagent.langchain" in snippet.text)
    recalled, score = run_beside(tmp_path, "-c", in_agent.text).splitlines()
    assert recalled == "My dog is called Biscuit."
    assert float(score) > 0


def run_beside(folder: Path, *arguments: str) -> str:
    """Run Python where the package in a folder is installed, in a home of its own, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join((str(folder), *sys.path)),
            "MEMAGENT_HOME": str(folder / "home"),
            "MEMAGENT_EMBEDDER": "hashing",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(folder: Path) -> None:
    """Make the package in a folder known to Python by its entry points, as pip does."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    groups = [
        "\n".join((f"[{group}]", *(f"{name} = {place}" for name, place in points.items())))
        for group, points in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups) + "\n", encoding="utf-8")


# What is there


@every_page
def test_snippets_are_valid(page: Page, tmp_path: Path) -> None:
    for number, snippet in enumerate(page.snippets):
        assert snippet.language in LANGUAGES or is_indented_command(snippet), snippet.place
        if snippet.language == "python":
            compile(snippet.text, snippet.place, "exec")
        elif snippet.language == "yaml":
            path = tmp_path / f"{number}.recall.yaml"
            path.write_text(snippet.text, encoding="utf-8")
            assert read_scenarios(path)
        elif snippet.language == "toml":
            tomllib.loads(snippet.text)
        elif snippet.language == "json":
            json.loads(snippet.text)


def is_indented_command(snippet: Snippet) -> bool:
    return not snippet.language and snippet.text.split()[0] in ("python", "memagent", "pytest", "pip")


@every_page
def test_commands_and_options_exist(page: Page) -> None:
    commands = [shlex.split(code) for code in page.code if is_command(code)]
    for snippet in page.snippets:
        if snippet.language == "sh" or is_indented_command(snippet):
            commands += [words for line in lines(snippet.text) for words in pipeline(line)]
    for words in commands:
        problem = problem_of(words)
        assert not problem, f"{name_of(page)}: {shlex.join(words)}: {problem}"


def is_command(code: str) -> bool:
    return code.partition(" ")[0] in ("memagent", "python", "pytest") and " " in code


def problem_of(words: list[str]) -> str:
    """Return the word of a command line that does not exist, or nothing."""
    if words[0] == "memagent":
        return memagent_problem(words[1:])
    if words[0] == "python" and words[1:2] != ["-m"]:
        script = ROOT / words[1]
        if not script.is_file():
            return words[1]
        source = script.read_text(encoding="utf-8").replace("--no-", "--")
        options = [word for word in words[2:] if word.startswith("--") and word not in ("--", "--help")]
        return next((word for word in options if f'"{word.replace("--no-", "--")}"' not in source), "")
    if words[0] == "pytest":
        plugin = (ROOT / "cli" / "pytest_plugin.py").read_text(encoding="utf-8")
        options = [word for word in words if word.startswith("--memagent")]
        files = [word for word in words if word.startswith("tests/")]
        return next((word for word in options if f'"{word}"' not in plugin), "") or next(
            (word for word in files if not (ROOT / word).exists()), ""
        )
    return ""


def memagent_problem(words: list[str]) -> str:
    """Return the first command, option or setting that memagent does not have, or nothing."""
    command = COMMANDS
    before = ""
    for word in words:
        if word.startswith("-") and word != "-":
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            if word not in known | {"-h", "--help"}:
                return word
        elif before == "--set" and word != "KEY=VALUE":
            setting = word.partition("=")[0].rpartition(".")[2]
            if setting not in setting_names():
                return setting
        elif getattr(command, "commands", None):
            if word not in command.commands:
                return word
            command = command.commands[word]
        before = word
    return ""


@cache
def setting_names() -> frozenset[str]:
    return frozenset(field.name for name in registry.names() for field in fields(registry.get(name).Config))


@every_page
def test_named_files_and_python_names_exist(page: Page) -> None:
    path = re.compile(rf"({'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for code in page.code:
        if "NAME" in code:
            continue
        message = f"{name_of(page)}: there is no {code}"
        if path.fullmatch(code):
            assert list(ROOT.glob(code.rstrip("/"))), message
        elif re.fullmatch(r"memagent(\.\w+)+", code):
            assert imported(code), message
        elif extra := re.search(r"(?:memagent|\.)\[(\w+)\]", code):
            assert extra[1] in project["optional-dependencies"], message


def imported(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, last = name.rpartition(".")
    found = importlib.import_module(module)
    return hasattr(found, last) or importlib.util.find_spec(name) is not None


@every_page
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file).resolve() if file else page.path
        assert target.is_file(), f"{name_of(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in read(target).anchors, f"{name_of(page)}: {link}"


# What a reader can expect


def test_readme_is_one_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 800


def test_the_index_names_every_page() -> None:
    index = read(ROOT / "docs" / "README.md")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == {link for link in index.links if "/" not in link and "#" not in link}


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_files_that_comments_name_exist() -> None:
    missing = [
        f"{path.relative_to(ROOT)} names {name}"
        for folder in ("agent", "backends", "benchmarks", "cli", "kernels")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in re.findall(
            r"(?<![\w/])(?:benchmarks|docs|tests)/[\w./-]*\.(?:py|md|yaml|json)",
            path.read_text(encoding="utf-8"),
        )
        if not (ROOT / name).exists()
    ]
    assert missing == []
