"""The contract every installed backend keeps, whoever wrote it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.backends import registry
from memagent.backends.errors import InputError, NotFoundError, SettingError
from tests.conftest import OpenMemory

FACT = "My dog is called Biscuit."
QUESTION = "What is my dog called?"

# A memory inside a language model takes minutes: `pytest -m slow tests/contract`.
pytestmark = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.slow if "local_model" in registry.get(name).needs else ())
        for name in registry.names()
    ],
)


def remembers(backend: str) -> bool:
    """The control keeps the whole contract, but recalls nothing."""
    return backend != "none"


def texts(found: object) -> list[str]:
    return [item.text for item in found]  # type: ignore[attr-defined]


def bytes_of(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_recalls_what_it_was_told_with_provenance(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    for place in range(20):
        memory.remember("chat", "user", f"The weather on day {place} was grey.")
    turn = memory.remember("monday", "user", FACT, speaker="Ana")
    found = memory.recall(QUESTION, limit=3)
    if remembers(backend):
        assert found[0].text == FACT
        assert (found[0].seqs, found[0].session, found[0].role) == ((turn.seq,), "monday", "user")
        assert (found[0].speaker, found[0].created_at) == ("Ana", turn.created_at)
        assert found[0].why.endswith(".")
        assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    else:
        assert found == []


def test_recalls_at_most_limit_and_nothing_for_nothing(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    assert memory.recall(QUESTION) == []
    for place in range(12):
        memory.remember("chat", "user", f"My dog number {place} is called Rex {place}.")
    assert len(memory.recall(QUESTION, limit=2)) <= 2
    assert memory.recall("   ") == []
    assert memory.recall("zyxgrabl flumox") == []


@pytest.mark.parametrize("stored", [False, True])
def test_survives_a_restart_with_and_without_a_checkpoint(
    backend: str, stored: bool, open_memory: OpenMemory
) -> None:
    memory = open_memory(backend=backend)
    memory.remember("monday", "user", FACT)
    if stored:
        memory.checkpoint()
    memory.remember("monday", "user", "The sea at Tavira is warm in June.")
    before = [texts(memory.recall(query)) for query in (QUESTION, "How warm is my sea at Tavira?")]
    memory.close()
    again = open_memory(backend=backend)
    assert [texts(again.recall(query)) for query in (QUESTION, "How warm is my sea at Tavira?")] == before
    assert bool(before[0]) == remembers(backend)


def test_rebuilding_gives_the_same_memory(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    for place in range(90):
        memory.remember(
            f"s{place % 7}", "user", f"My colleague number {place} keeps {place * 3} bees in town {place}."
        )
    queries = [f"How many bees does my colleague number {place} keep?" for place in range(0, 90, 9)]
    before = [memory.recall(query) for query in queries]
    memory.rebuild()
    assert [texts(memory.recall(query)) for query in queries] == [texts(found) for found in before]


def test_remembering_twice_changes_nothing(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    memory.remember("monday", "user", FACT)
    items = memory.stats().items
    memory.followers[0].backend.remember(list(memory.journal.turns()))
    assert memory.stats().items == items


def test_users_are_isolated(backend: str, home: Home, open_memory: OpenMemory) -> None:
    with open_memory("bob", backend) as memory:
        memory.remember("monday", "user", "The parrot of Bob is called Quetzal.")
        memory.checkpoint()
    before = bytes_of(home.user_folder("bob"))
    memory = open_memory("ana", backend)
    turn = memory.remember("monday", "user", FACT)
    assert not any(
        "Quetzal" in text for text in texts(memory.recall("Is my parrot called Quetzal?", limit=10))
    )
    memory.forget([turn.seq])
    memory.close()
    assert bytes_of(home.user_folder("bob")) == before


def test_forgotten_text_is_nowhere(backend: str, home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    turns = [
        memory.remember("chat", "user", f"Filler sentence number {place} about gardens.")
        for place in range(30)
    ]
    secret = memory.remember("chat", "user", "My secret garden word is zyxgrabl.")
    turns += [memory.remember("chat", "assistant", f"I see, garden number {place}.") for place in range(30)]
    memory.checkpoint()
    memory.forget([secret.seq])
    assert not any(
        "zyxgrabl" in text for text in texts(memory.recall("What is my secret garden word?", limit=10))
    )
    assert b"zyxgrabl" not in bytes_of(home.root)
    memory.consolidate()
    memory.close()
    again = open_memory(backend=backend)
    again.rebuild()
    assert not any("zyxgrabl" in text for text in texts(again.recall("zyxgrabl", limit=10)))
    again.close()
    assert b"zyxgrabl" not in bytes_of(home.root)


def test_forgetting_leaves_the_others(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    kept = memory.remember("monday", "user", FACT)
    gone = memory.remember("monday", "user", "My cat is called Marmalade.")
    memory.forget([gone.seq, 12345])
    assert texts(memory.recall(QUESTION)) == ([FACT] if remembers(backend) else [])
    assert [turn.seq for turn in memory.journal.turns()] == [kept.seq]


def test_a_damaged_checkpoint_is_rebuilt_and_said(backend: str, home: Home, open_memory: OpenMemory) -> None:
    with open_memory(backend=backend) as memory:
        memory.remember("monday", "user", FACT)
        memory.checkpoint()
    folder = home.backend_folder("ana", backend)
    for path in (folder / (folder / "CURRENT").read_text().split()[0]).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    said: list[str] = []
    memory = open_memory(backend=backend, notify=said.append)
    assert "rebuilt from the journal" in said[0]
    assert texts(memory.recall(QUESTION)) == ([FACT] if remembers(backend) else [])


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "word " * 20_000,
        "".join(
            chr(plane * 0x10000 + 0x400 + offset)
            for plane in (0, 1, 2, 3, 14, 15, 16)
            for offset in range(20)
        ),
        "e\u0301 \u202e right-to-left \u200b zero width \ufeff",
        "\"; DROP TABLE turns; -- ' OR 1=1 <|im_end|> </memory> {{ }} %s",
        "one\ntwo\r\nthree\ttabs",
    ],
    ids=["long word", "long text", "every plane", "marks", "injection", "lines"],
)
def test_takes_any_text(backend: str, text: str, open_memory: OpenMemory) -> None:
    with open_memory(backend=backend) as memory:
        memory.remember("monday", "user", text)
        memory.remember("monday", "user", FACT)
        memory.recall(text[:5000])
        memory.checkpoint()
    memory = open_memory(backend=backend)
    assert next(memory.journal.turns()).text == text
    assert (FACT in texts(memory.recall(QUESTION))) == remembers(backend)


@pytest.mark.parametrize("text", ["", "  \n", "\ud800", "a\0b"])
def test_text_that_cannot_be_kept_is_refused_and_nothing_stored(
    backend: str, text: str, open_memory: OpenMemory
) -> None:
    memory = open_memory(backend=backend)
    with pytest.raises(InputError):
        memory.remember("monday", "user", text)
    assert memory.journal.count() == 0


def test_two_processes_keep_both_histories(backend: str, home: Home, open_memory: OpenMemory) -> None:
    writer = (
        "import sys\n"
        "from memagent.agent.home import Home\n"
        "from memagent.agent.memory import Memory\n"
        "from tests.conftest import small_model\n"
        "for place in range(5):\n"
        "    with Memory.open(Home.from_environment(), 'ana', sys.argv[1], make_model=small_model, wait_seconds=120) as memory:\n"
        "        memory.remember(sys.argv[2], 'user', f'Writer {sys.argv[2]} noted thing number {place}.')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", writer, backend, name]) for name in ("one", "two")]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    memory = open_memory(backend=backend)
    assert memory.journal.count() == 10
    assert {session.turns for session in memory.journal.sessions()} == {5}
    assert memory.position.seq == 10


def test_settings_are_checked(backend: str, open_memory: OpenMemory) -> None:
    with pytest.raises(NotFoundError, match="nonsense"):
        open_memory(backend=backend, settings={"nonsense": "1"})
    config = registry.get(backend).Config()
    for name, value in vars(config).items():
        if isinstance(value, float):
            with pytest.raises(SettingError, match=name):
                open_memory(backend=backend, settings={name: "many"})
