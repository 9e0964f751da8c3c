"""Forgetting a turn everywhere, with the replies that may repeat it and no one else's."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from memagent.agent.engine.conversation import Conversation
from memagent.agent.home import Home
from memagent.agent.journal.export import export
from memagent.agent.memory import Memory, forgetting
from memagent.agent.memory.checkpoint import CheckpointStore
from memagent.agent.memory.follower import Follower
from memagent.agent.memory.forgetting import Forgotten
from memagent.agent.memory.workspace import Scratch
from memagent.agent.models.fakes import EchoModel
from memagent.backends import registry
from memagent.backends.errors import BusyError, SettingError
from memagent.backends.in_memory import InMemory, InMemoryConfig
from memagent.backends.protocol import Fingerprint, Resources
from tests.conftest import OpenMemory

WORD = "xyzzy-plugh-7319"
SECRET = f"The secret word is {WORD}."


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files_with(word: str, folder: Path) -> list[str]:
    return [name for name, content in files_of(folder).items() if word.encode() in content]


def exported(memory: Memory) -> str:
    file = io.StringIO()
    export(memory.journal, file)
    return file.getvalue()


def store_of(home: Home, backend: str) -> CheckpointStore:
    return CheckpointStore(home.backend_folder("ana", backend))


def store_secret(open_memory: OpenMemory, **options: object) -> Memory:
    """Open a memory whose stored state holds the secret."""
    memory = open_memory(**options)
    memory.remember("monday", "user", SECRET)
    memory.checkpoint()
    return memory


def fill_state(open_memory: OpenMemory, backend: str) -> None:
    """Give another backend a stored state that has read the whole journal."""
    memory = open_memory(backend=backend)
    memory.checkpoint()
    memory.close()


def test_a_turn_is_gone_from_recall_journal_export_and_files(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", SECRET)
    memory.remember("monday", "user", "The sea is warm.")
    memory.checkpoint()
    assert files_with(WORD, home.root) != []
    assert memory.forget([1]) == Forgotten((1,), (), ())
    assert memory.recall("secret word") == []
    assert [turn.text for turn in memory.journal.turns()] == ["The sea is warm."]
    assert WORD not in exported(memory)
    assert files_with(WORD, home.root) == []
    assert [item.text for item in memory.recall("sea")] == ["The sea is warm."]


def test_what_was_forgotten_does_not_come_back(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", SECRET)
    memory.forget([1])
    memory.rebuild()
    assert memory.recall("secret word") == []
    memory.close()
    memory = open_memory()
    assert memory.recall("secret word") == []
    assert memory.remember("monday", "user", "next").seq == 2
    assert files_with(WORD, home.root) == []


def test_replies_that_saw_a_turn_go_with_it_through_any_number_of_replies(open_memory: OpenMemory) -> None:
    memory = open_memory()
    say = memory.remember
    say("monday", "user", SECRET)
    say("monday", "user", "The sea is warm.")
    say("monday", "assistant", "saw the secret", in_view=(1,))
    say("monday", "assistant", "saw the sea", in_view=(2,))
    say("tuesday", "assistant", "saw the reply", in_view=(2, 3))
    say("tuesday", "user", "a user's words are the user's own", in_view=(1,))
    say("tuesday", "assistant", "saw the reply to the reply", in_view=(5,), derived=True)
    say("tuesday", "assistant", "saw nothing")
    assert memory.journal.replies_that_saw([1]) == [3, 5, 7]
    assert memory.forget([1]) == Forgotten((1,), (3, 5, 7), ())
    assert [turn.seq for turn in memory.journal.turns()] == [2, 4, 6, 8]
    assert memory.stats().items == 4


def test_a_reply_that_was_asked_for_counts_as_asked_for(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", SECRET)
    memory.remember("monday", "assistant", "noted", in_view=(1,))
    assert memory.forget([2, 1]) == Forgotten((1, 2), (), ())


def test_no_seqs_have_no_replies(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "assistant", "hello", in_view=())
    assert memory.journal.replies_that_saw([]) == []


def test_a_conversations_replies_are_forgotten_with_what_they_repeat(
    home: Home, open_memory: OpenMemory
) -> None:
    memory = open_memory()
    list(Conversation(memory, EchoModel(), "monday").send(SECRET))
    list(Conversation(memory, EchoModel(), "tuesday").send("What is the secret word?"))
    list(Conversation(memory, EchoModel(), "wednesday").send("How warm is the sea?"))
    assert [WORD in turn.text for turn in memory.journal.turns()] == [True, True, False, True, False, False]
    done = memory.forget([1])
    assert (done.turns, done.replies) == ((1,), (2, 4))
    assert [turn.seq for turn in memory.journal.turns()] == [3, 5, 6]
    assert files_with(WORD, home.root) == []


def test_unknown_seqs_are_ignored(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", SECRET)
    before = exported(memory)
    assert memory.forget([2, 99, 0, -1]) == Forgotten((), (), ())
    assert memory.forget([]) == Forgotten((), (), ())
    assert exported(memory) == before
    assert memory.forget([1, 99]).turns == (1,)
    assert memory.forget([1]) == Forgotten((), (), ())
    assert memory.journal.last() == (1, 1)


def test_another_users_files_stay_byte_for_byte(home: Home, open_memory: OpenMemory) -> None:
    for user in ("ana", "bob"):
        memory = open_memory(user)
        memory.remember("monday", "user", SECRET)
        memory.remember("monday", "assistant", "noted", in_view=(1,))
        memory.checkpoint()
        memory.close()
    before = files_of(home.user_folder("bob"))
    open_memory("ana").forget([1])
    assert files_of(home.user_folder("bob")) == before
    assert files_with(WORD, home.user_folder("ana")) == []
    assert [item.seqs for item in open_memory("bob").recall("secret word")] == [(1,)]


def test_another_users_turns_in_a_shared_database_stay(home: Home, tmp_path: Path) -> None:
    shared = Home(home.root, home.models, f"sqlite:///{tmp_path / 'shared.sqlite3'}")
    with Memory.open(shared, "ana", "in_memory") as ana, Memory.open(shared, "bob", "in_memory") as bob:
        ana.remember("monday", "user", SECRET)
        bob.remember("monday", "user", "The word of bob is plover.")
        bob.remember("monday", "assistant", "noted", in_view=(1,))
        before = exported(bob)
        ana.forget([1])
        assert exported(bob) == before
        assert len(bob.recall("word bob plover")) == 1
    assert files_with(WORD, tmp_path) == []


def test_the_state_of_another_backend_forgets_too(home: Home, open_memory: OpenMemory) -> None:
    control = open_memory(backend="none")
    control.remember("monday", "user", SECRET)
    control.remember("monday", "user", "The sea is warm.")
    fill_state(open_memory, "in_memory")
    assert files_with(WORD, home.backend_folder("ana", "in_memory")) != []
    assert control.forget([1]) == Forgotten((1,), (), ())
    assert files_with(WORD, home.root) == []
    state = store_of(home, "in_memory").inspect()
    assert state is not None
    assert (state.position.seq, state.position.forgetting) == (2, 1)
    memory = open_memory(wait_seconds=0)
    assert (memory.recall("secret word"), len(memory.recall("sea"))) == ([], 1)


def test_the_state_of_another_backend_that_had_not_read_it_yet_stays_usable(
    home: Home, open_memory: OpenMemory
) -> None:
    fill_state(open_memory, "in_memory")
    control = open_memory(backend="none")
    control.remember("monday", "user", SECRET)
    assert control.forget([1]).discarded == ()
    assert files_with(WORD, home.root) == []


def test_a_state_that_cannot_be_opened_is_removed(home: Home, open_memory: OpenMemory) -> None:
    control = open_memory(backend="none")
    control.remember("monday", "user", SECRET)
    control.remember("monday", "user", "The sea is warm.")
    fill_state(open_memory, "in_memory")
    state = next(home.backend_folder("ana", "in_memory").glob("*/turns.json"))
    state.write_bytes(state.read_bytes() + b" ")
    assert control.forget([1]) == Forgotten((1,), (), ("in_memory",))
    assert files_with(WORD, home.root) == []
    assert store_of(home, "in_memory").current() is None
    assert len(open_memory(wait_seconds=0).recall("sea")) == 1


class Costly(InMemory):
    """Takes long to read, and belongs to a model."""

    costly: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"local_model"})

    @classmethod
    def fingerprint(cls, config: InMemoryConfig, resources: Resources) -> Fingerprint:
        return {"model": resources.local_model.digest}


@dataclass
class NamedModel:
    """A model that nothing is asked of but its digest."""

    digest: str
    name: str = "named"
    model: object = None
    tokenizer: object = None


def offer_costly(monkeypatch: pytest.MonkeyPatch) -> None:
    get = registry.get
    monkeypatch.setattr(registry, "get", lambda name: Costly if name == "in_memory" else get(name))


def test_a_costly_state_forgets_with_the_models_at_hand(
    home: Home, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_costly(monkeypatch)
    with open_memory(make_model=lambda: NamedModel("one")) as memory:
        memory.remember("monday", "user", SECRET)
        memory.remember("monday", "user", "The sea is warm.")
        memory.checkpoint()
    control = open_memory(backend="none", make_model=lambda: NamedModel("one"))
    # What it has not read yet is not read for the sake of forgetting.
    control.remember("monday", "user", "The sea is deep.")
    assert control.forget([1]) == Forgotten((1,), (), ())
    assert files_with(WORD, home.root) == []
    state = store_of(home, "in_memory").inspect()
    assert state is not None
    assert (state.position.seq, state.position.forgetting) == (2, 1)


@pytest.mark.parametrize("model", [NamedModel("other"), None], ids=["another model", "no local model"])
def test_a_costly_state_that_cannot_be_opened_is_kept_and_the_command_that_finishes_it_is_named(
    home: Home, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch, model: NamedModel | None
) -> None:
    def no_model() -> NamedModel:
        raise SettingError("no local model")

    offer_costly(monkeypatch)
    store_secret(open_memory, make_model=lambda: NamedModel("one")).close()
    control = open_memory(backend="none", make_model=no_model if model is None else lambda: model)
    done = control.forget([1])
    assert (done.turns, done.discarded) == ((1,), ())
    (remaining,) = done.remaining
    assert remaining.backend == "in_memory"
    assert remaining.command.startswith("memagent backends rebuild in_memory --user ana --model ")
    assert [step.backend for step in control.journal.unfinished()] == ["in_memory"]
    assert control.forget([]).remaining == done.remaining
    control.close()
    # Whoever opens it with its model finishes it.
    with open_memory(make_model=lambda: NamedModel("one"), wait_seconds=0) as memory:
        assert memory.recall("word") == []
        assert memory.journal.unfinished() == []
    assert files_with(WORD, home.root) == []


def test_the_state_of_a_backend_that_is_not_installed_is_removed(home: Home, open_memory: OpenMemory) -> None:
    memory = store_secret(open_memory)
    folder = home.backend_folder("ana", "in_memory")
    uninstalled = folder.with_name("uninstalled")
    (uninstalled / "000001").mkdir(parents=True)
    (uninstalled / "CURRENT").write_text(f"000001 {0:064x}")
    (uninstalled / "000001" / "state").write_text(SECRET)
    assert memory.forget([1]).discarded == ("uninstalled",)
    assert files_with(WORD, home.root) == []


def test_working_files_a_killed_process_left_are_removed(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", SECRET)
    (Scratch(home.backend_folder("ana", "none")).make() / "left").write_text(SECRET)
    memory.forget([1])
    assert files_with(WORD, home.root) == []


def test_a_first_state_a_killed_process_left_half_written_is_removed(
    home: Home, open_memory: OpenMemory
) -> None:
    memory = open_memory(backend="none")
    memory.remember("monday", "user", SECRET)
    half = home.backend_folder("ana", "in_memory") / "000001"
    half.mkdir(parents=True)
    (half / "turns.json").write_text(SECRET)
    memory.forget([1])
    assert files_with(WORD, home.root) == []


def test_a_memory_that_is_in_use_forgets_at_its_next_call(
    home: Home, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "_WAIT_SECONDS", 0.05)
    busy = store_secret(open_memory)
    done = open_memory(backend="none").forget([1])
    (remaining,) = done.remaining
    assert (remaining.backend, remaining.command) == ("in_memory", "")
    assert "in use by process" in remaining.reason
    assert files_with(WORD, home.root) != []
    assert busy.recall("secret word") == []
    assert files_with(WORD, home.root) == []
    assert busy.journal.unfinished() == []


def test_a_memory_that_is_closed_without_another_call_has_forgotten_too(
    home: Home, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "_WAIT_SECONDS", 0.05)
    busy = store_secret(open_memory)
    control = open_memory(backend="none")
    control.forget([1])
    busy.close()
    assert files_with(WORD, home.root) == []
    assert control.journal.unfinished() == []


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing follow the journal's own commit, as if the process were killed there."""

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memagent.agent.journal.journal.purge", killed)


@pytest.mark.parametrize("backend", ["in_memory", "none"])
def test_a_forgetting_that_was_cut_off_is_finished_by_the_next_opening(
    home: Home, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    memory = store_secret(open_memory)
    with monkeypatch.context() as patched:
        interrupt(patched)
        with pytest.raises(KeyboardInterrupt):
            memory.forget([1])
    assert files_with(WORD, home.backend_folder("ana", "in_memory")) != []
    assert {step.backend for step in memory.journal.unfinished()} == {"", "in_memory"}
    with monkeypatch.context() as patched:
        patched.setattr(Follower, "close", Follower.abandon)
        memory.close()
    with open_memory(backend=backend, wait_seconds=0) as again:
        assert again.journal.unfinished() == []
    assert files_with(WORD, home.root) == []


def test_what_a_reader_has_copied_is_unfinished_until_it_ends(home: Home, open_memory: OpenMemory) -> None:
    memory = store_secret(open_memory)
    reader = open_memory(read_only=True)
    place = reader.followers[0].resources.workspace
    (place / "copy").write_text(SECRET)
    (remaining,) = memory.forget([1]).remaining
    assert (remaining.backend, remaining.command) == ("in_memory", "")
    assert [step.backend for step in memory.journal.unfinished()] == ["in_memory"]
    reader.close()
    assert memory.forget([]).remaining == ()
    assert memory.journal.unfinished() == []
    assert files_with(WORD, home.root) == []


def test_what_a_killed_reader_left_is_removed(home: Home, open_memory: OpenMemory) -> None:
    memory = store_secret(open_memory)
    reader_folder = home.backend_folder("ana", "in_memory") / "readers" / ("0" * 32)
    reader_folder.mkdir(parents=True)
    reader_folder.with_suffix(".lock").touch()
    (reader_folder / "copy").write_text(SECRET)
    assert memory.forget([1]).remaining == ()
    assert files_with(WORD, home.root) == []


def test_the_locks_of_other_backends_are_free_afterwards(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory(backend="none")
    memory.remember("monday", "user", SECRET)
    fill_state(open_memory, "in_memory")
    memory.forget([1])
    assert not (home.backend_folder("ana", "in_memory") / "holder.json").exists()
    open_memory(wait_seconds=0)
    with pytest.raises(BusyError):
        open_memory(backend="none", wait_seconds=0)
