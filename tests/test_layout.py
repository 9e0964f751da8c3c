"""The tree is what the package says it is: links resolve, imports run one way, help is light."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path

import memagent

ROOT = Path(__file__).parents[1]
LAYERS = ("kernels", "backends", "agent", "cli")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_each_folder_is_linked_into_the_package() -> None:
    for name in LAYERS:
        assert (ROOT / ".src" / "memagent" / name).resolve() == ROOT / name
        assert importlib.import_module(f"memagent.{name}").__name__ == f"memagent.{name}"


def test_imports_run_one_way() -> None:
    for height, layer in enumerate(LAYERS):
        above = tuple(f"memagent.{name}" for name in LAYERS[height + 1 :])
        for path in (ROOT / layer).rglob("*.py"):
            upward = [name for name in imports_of(path) if name.startswith(above)] if above else []
            assert not upward, f"{path.relative_to(ROOT)} imports {upward}"


def test_the_public_names_are_there_and_sorted() -> None:
    assert sorted(memagent.__all__) == memagent.__all__
    for name in memagent.__all__:
        assert getattr(memagent, name) is not None


def test_nothing_loads_pickles() -> None:
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            assert not imports_of(path) & {"pickle", "dill", "joblib", "marshal", "shelve"}, path
            assert "torch.load(" not in path.read_text(encoding="utf-8"), path


def test_the_changelog_knows_this_version() -> None:
    assert f"## {memagent.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_built_in_backends_are_entry_points() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = set(project["entry-points"]["memagent.backends"])
    folders = {path.name for path in (ROOT / "backends").iterdir() if (path / "backend.py").exists()}
    assert declared == folders
