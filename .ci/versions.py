#!/usr/bin/env python3
"""Refresh constraints.txt, or test memagent with the newest or the lowest versions that pyproject.toml allows.

    python .ci/versions.py refresh               # write constraints.txt anew; commit it once .ci/run passes
    python .ci/versions.py newest                # README's test command, without constraints.txt
    python .ci/versions.py lowest                # the same, with each lower bound of pyproject.toml as the version
    python .ci/versions.py lowest -- tests/cli   # what follows -- is for pytest

Each makes a fresh virtual environment. The script needs ``packaging``, which pytest brings along.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# As uv calls them. torch has no wheels for Macs with Intel processors.
PLATFORMS = (
    "x86_64-manylinux_2_28",
    "aarch64-manylinux_2_28",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
)
HEADER = f"""\
# What README's commands and .ci/run install, on Python {PYTHONS[0]} to {PYTHONS[-1]}, Linux, macOS and Windows.
# Written by `python .ci/versions.py refresh`.
"""


def project() -> dict[str, Any]:
    """Return the table ``project`` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def requirements(table: Mapping[str, Any]) -> Iterator[Requirement]:
    """Yield what the project requires, with all its extras, but for itself."""
    extras = table.get("optional-dependencies", {})
    for text in (*table.get("dependencies", ()), *(text for extra in extras.values() for text in extra)):
        requirement = Requirement(text)
        if requirement.name != table["name"]:
            yield requirement


def lowest(table: Mapping[str, Any]) -> list[str]:
    """Return the lower bound of each requirement as a constraint, ``name==version``.

    Raises:
        ValueError: A requirement has no lower bound.
    """
    pins = []
    for requirement in requirements(table):
        bounds = [spec.version for spec in requirement.specifier if spec.operator in (">=", "==", "~=")]
        if not bounds:
            raise ValueError(f"{requirement} has no lower bound; expected {requirement.name}>=VERSION")
        marker = f" ; {requirement.marker}" if requirement.marker else ""
        pins.append(f"{requirement.name}=={bounds[0]}{marker}")
    return pins


def pin(line: str) -> Requirement:
    """Read one line of constraints.txt.

    Raises:
        ValueError: It is not of the form ``name==version`` or ``name==version ; marker``, or the version is local to one
            index (``2.13.0+cpu``).
    """
    expected = f"expected name==version, which every index has, in place of {line!r}"
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        raise ValueError(expected) from error
    specs = list(requirement.specifier)
    exact = len(specs) == 1 and specs[0].operator == "==" and not set("+*") & set(specs[0].version)
    if not exact or requirement.url or requirement.extras:
        raise ValueError(expected)
    return requirement


def run(*command: str | Path, **variables: str) -> None:
    """Run a command in the project's folder; a failure ends this script with the command's exit status."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    status = subprocess.call([str(part) for part in command], cwd=ROOT, env=environment)
    if status:
        print(f"This failed with exit status {status}: {' '.join(map(str, command))}", file=sys.stderr)
        raise SystemExit(status)


def fresh(folder: Path) -> Path:
    """Make a virtual environment in ``folder``, with the Python that runs this script; return its folder of programs."""
    run(sys.executable, "-m", "venv", folder)
    return folder / ("Scripts" if os.name == "nt" else "bin")


def refresh(folder: Path) -> None:
    """Resolve the project with all its extras, for all Pythons and platforms at once, and write constraints.txt.

    pip resolves for the Python and platform it runs on only; uv writes one file for all. Where it can, it chooses one
    version for all of them, which is the one that .ci/run tests. Then each Python and platform is tried: every pin must
    have a wheel there.
    """
    programs = fresh(folder / "venv")
    run(programs / "pip", "install", "--quiet", "--disable-pip-version-check", "uv")
    compile_ = (programs / "uv", "pip", "compile", "--quiet", "--all-extras", "--no-header", "--no-annotate")
    pins = folder / "constraints.txt"
    universal = ("--universal", "--fork-strategy", "fewest", "--python-version", PYTHONS[0])
    run(*compile_, *universal, "--output-file", pins, "pyproject.toml")
    text = pins.read_text(encoding="utf-8")
    for line in text.splitlines():
        pin(line)
    for python in PYTHONS:
        for platform in PLATFORMS:
            print(f"Python {python}, {platform}: every pin must have a wheel.", flush=True)
            target = ("--python-version", python, "--python-platform", platform, "--only-binary", ":all:")
            output = ("--constraints", pins, "--output-file", folder / f"{python}-{platform}.txt")
            # torch's wheels for macOS are for version 14; uv takes 13 by default.
            run(*compile_, *target, *output, "pyproject.toml", MACOSX_DEPLOYMENT_TARGET="14.0")
    (ROOT / "constraints.txt").write_text(HEADER + text, encoding="utf-8")


def test(folder: Path, pytest_arguments: list[str], pins: list[str]) -> None:
    """Install the project with all its extras, say which versions these are, and run README's test command."""
    folder.mkdir(parents=True, exist_ok=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in pins), encoding="utf-8")
    programs = fresh(folder / "venv")
    wanted = f".[{','.join(project()['optional-dependencies'])}]"
    pip = (programs / "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "-c", constraints, "-e", wanted)
    run(*pip, "list", "--format", "freeze", "--exclude-editable")
    # A home and models of its own, as in .ci/run, so that nothing on the machine is needed or touched.
    models = os.environ.get("MEMAGENT_MODELS", str(folder / "models"))
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    home = str(folder / "home")
    run(programs / "pytest", *pytest_arguments, PATH=path, MEMAGENT_HOME=home, MEMAGENT_MODELS=models)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("refresh", help="write constraints.txt anew")
    for name in ("newest", "lowest"):
        command = commands.add_parser(name, help=f"test with the {name} versions that pyproject.toml allows")
        command.add_argument(
            "--into", type=Path, metavar="FOLDER", help="make the environment there and keep it"
        )
        command.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if chosen.command == "refresh":
            refresh(Path(temporary))
        else:
            pins = lowest(project()) if chosen.command == "lowest" else []
            test(chosen.into or Path(temporary), chosen.pytest, pins)


if __name__ == "__main__":
    main()
