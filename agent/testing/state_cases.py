"""Contract cases of stored state: it follows from the journal, belongs to one user, and loses forgotten text."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, ClassVar

import pytest

from memagent.agent.testing.recall_cases import FACT, bytes_of, texts
from memagent.backends import registry
from memagent.backends.errors import InputError, NotFoundError, SettingError

if TYPE_CHECKING:
    from memagent.agent.home import Home
    from memagent.agent.testing.contract import OpenMemory

# Another writer, which has imported what it needs once its first note is written, and then waits to go on.
_WRITING_PROCESS = """
import sys
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.testing import tiny_model

for number in range(5):
    with Memory.open(
        Home.from_environment(), "ana", sys.argv[1], make_model=tiny_model, wait_seconds=120
    ) as memory:
        memory.remember("other", "user", f"The other writer noted thing number {number}.")
    if number == 0:
        print("ready", flush=True)
        sys.stdin.readline()
"""


class StateCases:
    """The same journal gives the same memory, users are isolated, and no file contains forgotten text.

    ``open_memory`` opens ``backend`` in an empty temporary home, with the suite's own models.
    """

    backend: ClassVar[str]

    def test_a_rebuilt_memory_is_the_same(self, open_memory: OpenMemory) -> None:
        """A memory that is rebuilt from the journal recalls the same."""
        memory = open_memory()
        for number in range(70):  # backends read up to 64 turns at once
            text = f"My colleague number {number} keeps {number * 3} bees in town {number}."
            memory.remember(f"s{number % 7}", "user", text)
        queries = [f"How many bees does my colleague number {number} keep?" for number in range(0, 70, 10)]
        before = [texts(memory.recall(query)) for query in queries]
        memory.rebuild()
        assert [texts(memory.recall(query)) for query in queries] == before

    def test_users_are_isolated(self, home: Home, open_memory: OpenMemory) -> None:
        """A memory recalls no turn of another user, and forgetting does not change the files of another user."""
        with open_memory("bob") as memory:
            memory.remember("monday", "user", "The parrot of Bob is called Quetzal.")
            memory.checkpoint()
        before = bytes_of(home.user_folder("bob"))
        memory = open_memory("ana")
        turn = memory.remember("monday", "user", FACT)
        recalled_texts = texts(memory.recall("Is my parrot called Quetzal?", limit=10))
        assert not any("Quetzal" in text for text in recalled_texts)
        memory.forget([turn.seq])
        memory.close()
        assert bytes_of(home.user_folder("bob")) == before

    def test_forgotten_text_is_nowhere(self, home: Home, open_memory: OpenMemory) -> None:
        """No file, recollection or rebuilt memory contains forgotten text."""
        memory = open_memory()
        for number in range(12):
            memory.remember("chat", "user", f"Filler sentence number {number} about gardens.")
        secret = memory.remember("chat", "user", "My secret garden word is zyxgrabl.")
        for number in range(12):
            memory.remember("chat", "assistant", f"I see, garden number {number}.")
        memory.checkpoint()
        memory.forget([secret.seq])
        recalled_texts = texts(memory.recall("What is my secret garden word?", limit=10))
        assert not any("zyxgrabl" in text for text in recalled_texts)
        assert b"zyxgrabl" not in bytes_of(home.root)
        memory.consolidate()
        memory.close()
        again = open_memory()
        again.rebuild()
        assert not any("zyxgrabl" in text for text in texts(again.recall("zyxgrabl", limit=10)))
        again.close()
        assert b"zyxgrabl" not in bytes_of(home.root)

    @pytest.mark.parametrize(
        "text", ["", "  \n", "\ud800", "a\0b"], ids=["empty", "blank", "surrogate", "NUL"]
    )
    def test_invalid_text_is_refused(self, open_memory: OpenMemory, text: str) -> None:
        """A text that the journal cannot store is refused, and nothing is stored."""
        memory = open_memory()
        with pytest.raises(InputError):
            memory.remember("monday", "user", text)
        assert memory.journal.count() == 0

    def test_two_processes_keep_both_histories(self, home: Home, open_memory: OpenMemory) -> None:
        """Turns of two processes that write at the same time are all there."""
        command = [sys.executable, "-c", _WRITING_PROCESS, self.backend]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            other.stdin.write("start\n")
            for number in range(5):
                with open_memory(settings={}, wait_seconds=120) as memory:
                    memory.remember("this", "user", f"This writer noted thing number {number}.")
            assert other.wait(timeout=120) == 0
        memory = open_memory()
        assert memory.journal.count() == 10
        assert {session.turns for session in memory.journal.sessions()} == {5}
        assert memory.position.seq == 10

    def test_settings_are_checked(self, open_memory: OpenMemory) -> None:
        """Unknown settings and values of the wrong type are refused."""
        with pytest.raises(NotFoundError, match="nonsense"):
            open_memory(settings={"nonsense": "1"})
        for name, value in vars(registry.get(self.backend).Config()).items():
            if isinstance(value, float):
                with pytest.raises(SettingError, match=name):
                    open_memory(settings={name: "many"})
