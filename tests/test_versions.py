"""Other packages: every version is pinned for README's commands and CI, and every bound says what was tested."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PINS = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]


def script() -> Any:
    """The module ``.ci/versions.py``."""
    spec = importlib.util.spec_from_file_location("versions", ROOT / ".ci" / "versions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


versions = script()
REQUIREMENTS = list(versions.requirements(versions.project()))


def platform(system: str, machine: str, python: str) -> dict[str, str]:
    """What environment markers are evaluated against."""
    name = {"Linux": "linux", "Darwin": "darwin", "Windows": "win32"}[system]
    return {
        "platform_system": system,
        "sys_platform": name,
        "os_name": "nt" if system == "Windows" else "posix",
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.1",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


PLATFORMS = [
    platform(system, machine, python)
    for system, machine in (
        ("Linux", "x86_64"),
        ("Linux", "aarch64"),
        ("Darwin", "arm64"),
        ("Windows", "AMD64"),
    )
    for python in versions.PYTHONS
]


def pins_on(environment: dict[str, str]) -> list[Requirement]:
    pins = [versions.pin(line) for line in PINS]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]


@pytest.mark.parametrize("line", PINS)
def test_a_constraint_is_a_name_and_a_version_that_every_index_has(line: str) -> None:
    assert versions.pin(line)


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.13.0+cpu",
        "torch==2.13.*",
        "torch>=2.13",
        "torch==2.13,<3",
        "torch===2.13.0",
        "torch",
        "torch @ https://files.example.org/torch.whl",
        "psycopg[binary]==3.3.9",
        "--index-url https://example.org/simple",
        "--find-links=/wheels",
        "-e .",
        "-r other.txt",
        "memagent @ file:///memagent",
        "",
    ],
)
def test_anything_else_is_no_constraint(line: str) -> None:
    with pytest.raises(ValueError, match="expected name==version, which every index has"):
        versions.pin(line)


@pytest.mark.parametrize(
    "environment", PLATFORMS, ids=lambda one: f"{one['sys_platform']}-{one['python_version']}"
)
def test_every_requirement_has_one_pin_that_its_bounds_allow(environment: dict[str, str]) -> None:
    pins = pins_on(environment)
    versions_by_name = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    assert len(versions_by_name) == len(pins)
    for requirement in REQUIREMENTS:
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.specifier.contains(versions_by_name[canonicalize_name(requirement.name)]), (
                requirement
            )


def test_the_project_itself_is_not_pinned() -> None:
    assert not re.search(r"^memagent\b", CONSTRAINTS, re.MULTILINE)


def test_every_requirement_has_a_lower_bound_that_is_allowed() -> None:
    lowest = versions.lowest(versions.project())
    assert len(lowest) == len(REQUIREMENTS)
    for requirement, line in zip(REQUIREMENTS, lowest, strict=True):
        pin = versions.pin(line)
        assert pin.name == requirement.name
        assert pin.marker == requirement.marker
        assert requirement.specifier.contains(next(iter(pin.specifier)).version)


def test_bounds_become_versions() -> None:
    table = {
        "name": "ours",
        "dependencies": ["one>=1.10,<2", "two[extra]~=3.1"],
        "optional-dependencies": {
            "all": ["ours[some]"],
            "some": ["three<5,>=4; python_version < '4'", "four==1.2"],
        },
    }
    assert versions.lowest(table) == [
        "one==1.10",
        "two==3.1",
        'three==4 ; python_version < "4"',
        "four==1.2",
    ]
    with pytest.raises(ValueError, match="five<2 has no lower bound; expected five>=VERSION"):
        versions.lowest({"name": "ours", "dependencies": ["five<2"]})


@pytest.mark.parametrize(("file", "commands"), [("README.md", 2), (".ci/run", 1), ("CONTRIBUTING.md", 1)])
def test_what_installs_the_project_installs_the_pins(file: str, commands: int) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    installs = re.findall(r"pip install (?!-e \.`).*?(?:\s\.(?=\s)|'\.\[dev\]')", text)
    assert len(installs) == commands
    for command in installs:
        assert " -c constraints.txt " in command, command
