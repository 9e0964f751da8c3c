"""Maps in tiny models, with heads that need no calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.backends.rope_map import calibration
from memagent.backends.rope_map.backend import RopeMap
from tests.backends.rope_map import tiny
from tests.backends.rope_map.tiny import Tiny
from tests.backends.turns import make_turn

MakeMap = Callable[..., RopeMap]
OpenTiny = Callable[..., Memory]


@pytest.fixture
def calibrations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every calibration return the same heads at once; the list gets one entry for each calibration."""
    calls: list[int] = []

    def calibrate(*_: object) -> object:
        calls.append(len(calls))
        return tiny.calibrated_heads()

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    return calls


@pytest.fixture
def make_map(tmp_path: Path, calibrations: list[int]) -> Iterator[MakeMap]:
    """Make maps, or load them, each in a workspace of its own. They do not abstain unless told to."""
    backends: list[RopeMap] = []

    def make(
        *texts: str, local: Tiny | None = None, saved: Path | None = None, **settings: object
    ) -> RopeMap:
        settings.setdefault("abstain", False)
        backend = tiny.rope_map(tmp_path / f"workspace{len(backends)}", local, saved, **settings)
        backends.append(backend)
        backend.remember([make_turn(seq, text) for seq, text in enumerate(texts, start=1)])
        return backend

    yield make
    for backend in backends:
        backend.close()


@pytest.fixture
def tiny_home(tmp_path: Path) -> Home:
    """A home with a models folder of its own, so that no calibration of a test is kept among the real ones."""
    return Home(tmp_path / "home", tmp_path / "models")


@pytest.fixture
def open_tiny(tiny_home: Home, calibrations: list[int]) -> Iterator[OpenTiny]:
    """Open memories over a tiny model; what stays open is closed at the end."""
    opened: list[Memory] = []

    def open_(settings: dict[str, str] | None = None, local: Tiny | None = None, **options: object) -> Memory:
        memory = Memory.open(
            tiny_home,
            "ana",
            "rope_map",
            {"abstain": "false"} | (settings or {}),
            make_model=lambda: local or tiny.tiny(),
            **options,  # type: ignore[arg-type]
        )
        opened.append(memory)
        return memory

    yield open_
    for memory in opened:
        memory.close()
