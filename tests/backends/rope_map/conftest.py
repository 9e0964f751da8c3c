"""Maps in tiny models, with an addressing that need not be learnt."""

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

MakeMap = Callable[..., RopeMap]
OpenTiny = Callable[..., Memory]


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have every calibration give the same heads at once; one entry for each that was asked for."""
    asked: list[int] = []

    def calibrate(*_: object) -> object:
        asked.append(len(asked))
        return tiny.addressing()

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    return asked


@pytest.fixture
def make_map(tmp_path: Path, learnt: list[int]) -> Iterator[MakeMap]:
    """Make maps, or load them, each in a workspace of its own: everything that draws attention is recalled."""
    made: list[RopeMap] = []

    def make(
        *texts: str, local: Tiny | None = None, saved: Path | None = None, **settings: object
    ) -> RopeMap:
        settings.setdefault("abstain", False)
        one = tiny.rope_map(tmp_path / f"workspace{len(made)}", local, saved, **settings)
        made.append(one)
        one.remember([tiny.said(seq, text) for seq, text in enumerate(texts, start=1)])
        return one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def tiny_home(tmp_path: Path) -> Home:
    """A home with a models folder of its own, so that no made-up calibration gets among the real ones."""
    return Home(tmp_path / "home", tmp_path / "models")


@pytest.fixture
def open_tiny(tiny_home: Home, learnt: list[int]) -> Iterator[OpenTiny]:
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
