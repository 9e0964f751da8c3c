"""Several backends opened as one memory: fused hits, own settings, own states, all locks, forgetting in each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from memagent.agent.home import Home
from memagent.agent.memory.checkpoint import Position
from memagent.agent.memory.fusion import add_reports, add_stats, fuse_hits
from memagent.agent.memory.lock import backend_lock
from memagent.agent.testing import TinyModel
from memagent.backends import registry
from memagent.backends.errors import BusyError, NotFoundError, SettingError
from memagent.backends.in_memory import InMemory
from memagent.backends.protocol import Injection, LocalModel
from memagent.backends.records import BackendStats, ConsolidationReport, Hit
from tests.agent.memories import FACT, QUESTION, bytes_of, store_of, texts
from tests.conftest import OpenMemory

BOTH = "in_memory+second"
SEA = "The sea is warm."


class Second(InMemory):
    """Another backend, which has a model channel too."""

    name: ClassVar[str] = "second"
    model_channel: ClassVar[bool] = True
    attached_models: ClassVar[list[LocalModel]] = []

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Injection]:
        self.attached_models.append(model)
        hits = [hit for hit in self.recall(query) if hit.seqs[0] not in exclude]
        yield Injection(hits, frozenset(seq for hit in hits for seq in hit.seqs))
        self.attached_models.remove(model)


@pytest.fixture(autouse=True)
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install ``second`` beside the backends that are installed."""
    get = registry.get
    monkeypatch.setattr(registry, "get", lambda name: Second if name == "second" else get(name))


def folder_of(home: Home, backend: str) -> Path:
    return home.backend_folder("ana", backend)


# fusion


def test_hits_of_a_single_backend_are_not_changed() -> None:
    hits = [Hit((1,), 7.5, "First."), Hit((2,), -3.0, "Second.")]
    assert fuse_hits({"rag": hits}, limit=1) == hits


def test_a_hit_that_several_backends_recall_comes_first_with_all_their_reasons() -> None:
    fused = fuse_hits(
        {
            "rag": [Hit((1,), 9.0, "Near."), Hit((2,), 8.0, "Nearly.")],
            "titans": [Hit((2,), 0.2, "Known.", superseded_by=5), Hit((3,), 0.1, "Vague.")],
        },
        limit=5,
    )
    assert [hit.seqs for hit in fused] == [(2,), (1,), (3,)]
    assert (fused[0].why, fused[0].superseded_by) == ("rag: Nearly. titans: Known.", 5)
    assert [hit.why for hit in fused[1:]] == ["rag: Near.", "titans: Vague."]
    assert [hit.score for hit in fused] == sorted((hit.score for hit in fused), reverse=True)


def test_a_memory_counts_by_its_weight_and_an_unknown_one_as_much_as_rag() -> None:
    rankings = {"rag": [Hit((1,), 1.0, "Near.")], "mine": [Hit((2,), 1.0, "Mine.")]}
    assert [hit.seqs for hit in fuse_hits(rankings, 2, {"mine": 2.0})] == [(2,), (1,)]
    assert [hit.seqs for hit in fuse_hits(rankings, 2, {"rag": 2.0})] == [(1,), (2,)]
    assert [hit.score for hit in fuse_hits(rankings, 2)] == pytest.approx([0.5, 0.5])


def test_first_in_every_backend_scores_one() -> None:
    fused = fuse_hits({"rag": [Hit((1,), 9.0, "Near.")], "titans": [Hit((1,), 0.2, "Known.")]}, limit=5)
    assert [hit.score for hit in fused] == pytest.approx([1.0])


def test_no_more_than_limit_hits_are_left_of_several_backends() -> None:
    rankings = {name: [Hit((seq,), 1.0, "Near.") for seq in (1, 2, 3)] for name in ("rag", "titans")}
    assert [hit.seqs for hit in fuse_hits(rankings, limit=2)] == [(1,), (2,)]
    assert fuse_hits({"rag": [], "titans": []}, limit=2) == []


def test_figures_and_reports_are_added_up() -> None:
    stats = {"rag": BackendStats(1, 2, 3, 4, {"chunks": 5}), "titans": BackendStats(10, 20, 30, 40)}
    assert add_stats(stats) == BackendStats(11, 22, 33, 44, {"rag: chunks": 5})
    reports = {"rag": ConsolidationReport(9, 7, "Merged."), "titans": ConsolidationReport(2, 2, "Nothing.")}
    assert add_reports(reports) == ConsolidationReport(11, 9, "rag: Merged. titans: Nothing.")


# opening


def test_all_backends_recall_and_the_memory_has_all_their_names(open_memory: OpenMemory) -> None:
    memory = open_memory(backend=BOTH)
    memory.remember("monday", "user", FACT)
    memory.remember("monday", "user", SEA)
    (item,) = memory.recall(QUESTION)
    assert (memory.name, item.text) == (BOTH, FACT)
    assert item.score == pytest.approx(1.0)
    assert item.why.startswith("in_memory: ")
    assert " second: " in item.why
    assert memory.stats().items == 4
    assert [picture.title for picture in memory.picture()] == ["in_memory", "second"]
    assert memory.consolidate().summary.startswith("in_memory: ")


def test_a_control_beside_a_backend_takes_nothing_away(open_memory: OpenMemory) -> None:
    memory = open_memory(backend="none+in_memory")
    memory.remember("monday", "user", FACT)
    assert texts(memory) == [FACT]


def test_a_setting_reaches_the_backend_it_names(open_memory: OpenMemory) -> None:
    memory = open_memory(backend=BOTH, settings={"in_memory.threshold": "1.0"})
    first, second = (follower.backend for follower in memory.followers)
    assert (first.config.threshold, second.config.threshold) == (1.0, 0.25)
    memory.remember("monday", "user", FACT)
    assert [item.why.split(":")[0] for item in memory.recall("dog cat")] == ["second"]


def test_a_setting_names_its_memory(open_memory: OpenMemory) -> None:
    memory = open_memory(backend="in_memory+rag", settings={"rag.candidates": "3"})
    assert memory.followers[1].backend.config.candidates == 3
    memory.remember("monday", "user", FACT)
    assert texts(memory) == [FACT]


@pytest.mark.parametrize(
    ("backend", "settings", "error", "message"),
    [
        (BOTH, {"threshold": "1.0"}, SettingError, "belongs to none of the backends"),
        (BOTH, {"rag.candidates": "3"}, SettingError, "belongs to none of the backends"),
        (BOTH, {"second.treshold": "1.0"}, NotFoundError, "setting of second"),
        ("in_memory+in_memory", {}, SettingError, "names a backend twice"),
        ("in_memory+", {}, NotFoundError, "backend"),
    ],
    ids=["no backend", "another backend", "no such setting", "twice", "no name"],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    backend: str,
    settings: dict[str, str],
    error: type[Exception],
    message: str,
    home: Home,
    open_memory: OpenMemory,
) -> None:
    with pytest.raises(error, match=message):
        open_memory(backend=backend, settings=settings)
    assert not home.root.exists()


# states and locks


def test_each_backend_has_its_state_in_its_own_folder_and_can_be_opened_alone(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    with open_memory(backend=BOTH, settings={"second.threshold": "0.5"}) as memory:
        memory.remember("monday", "user", FACT)
        memory.checkpoint()
    states = [store_of(home, name).inspect() for name in ("in_memory", "second")]
    assert [state.settings for state in states if state is not None] == [{}, {"threshold": "0.5"}]
    assert not folder_of(home, BOTH).exists()
    for name in ("in_memory", "second"):
        with open_memory(backend=name, notify=notices.append) as alone:
            assert (texts(alone), alone.position) == ([FACT], Position(1, 0))
    assert notices == []


def test_an_open_memory_has_the_locks_of_all_its_backends(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=BOTH)
    for name in ("in_memory", "second", "second+in_memory"):
        with pytest.raises(BusyError):
            open_memory(backend=name, wait_seconds=0)
    memory.close()
    for name in ("in_memory", "second"):
        lock = backend_lock(home, "ana", name)
        lock.acquire(wait_seconds=0)
        lock.release()


def test_an_opening_that_finds_the_second_backend_in_use_lets_go_of_the_first(
    open_memory: OpenMemory,
) -> None:
    open_memory(backend="second")
    with pytest.raises(BusyError, match="second memory"):
        open_memory(backend=BOTH, wait_seconds=0)
    open_memory(backend="in_memory", wait_seconds=0)


def test_the_position_is_that_of_the_backend_that_is_furthest_behind(open_memory: OpenMemory) -> None:
    with open_memory() as memory:
        memory.remember("monday", "user", FACT)
        memory.checkpoint()
    memory = open_memory(backend=BOTH, follow=False)
    assert [follower.position.seq for follower in memory.followers] == [1, 0]
    assert memory.position == Position(0, 0)
    assert texts(memory) == [FACT]
    assert memory.position == Position(1, 0)


def test_a_damaged_state_of_one_backend_is_rebuilt_and_the_other_loaded(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    with open_memory(backend=BOTH) as memory:
        memory.remember("monday", "user", FACT)
        memory.checkpoint()
    stored_before = store_of(home, "in_memory").current()
    state = next(folder_of(home, "second").glob("*/turns.json"))
    state.write_bytes(state.read_bytes() + b" ")
    memory = open_memory(backend=BOTH, notify=notices.append)
    assert [notice.split(" is not usable")[0] for notice in notices] == ["The stored state of second"]
    assert memory.recall(QUESTION)[0].score == pytest.approx(1.0)
    assert store_of(home, "in_memory").current() == stored_before


# forgetting


def test_forgetting_removes_a_turn_from_all_backends(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=BOTH)
    memory.remember("monday", "user", FACT)
    memory.remember("monday", "user", SEA)
    memory.checkpoint()
    assert bytes_of(home.root).count(b"Biscuit") > 1
    forgotten = memory.forget([1])
    assert (forgotten.turns, forgotten.discarded, forgotten.remaining) == ((1,), (), ())
    assert (texts(memory), texts(memory, "sea")) == ([], [SEA])
    assert memory.journal.unfinished() == []
    assert b"Biscuit" not in bytes_of(home.root)


def test_a_turn_is_forgotten_by_the_others_if_one_backend_fails(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory(backend=BOTH)
    memory.remember("monday", "user", FACT)
    memory.checkpoint()

    def fail(*arguments: object) -> bool:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Second, "forget", fail)
        (remaining,) = memory.forget([1]).remaining
    assert (remaining.backend, memory.followers[0].backend.recall(QUESTION)) == ("second", [])
    assert memory.finish_forgetting() == []
    assert texts(memory) == []


# the model channel


def test_the_channels_of_the_backends_that_have_one_are_opened_and_closed(open_memory: OpenMemory) -> None:
    memory = open_memory(backend=BOTH)
    memory.remember("monday", "user", FACT)
    memory.remember("monday", "user", "The dog is old.")
    model = TinyModel("tiny", "0", model=None, tokenizer=None)
    assert memory.has_model_channel
    with memory.attached(model, QUESTION, exclude=[2]) as attached:
        assert Second.attached_models == [model]
        assert [(item.text, item.session) for item in attached.recollections] == [(FACT, "monday")]
        assert attached.seqs == {1}
    assert Second.attached_models == []
