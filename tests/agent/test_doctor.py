"""The doctor: what it finds, what it mends, and that looking changes nothing."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from memagent.agent.doctor import Finding, examine
from memagent.agent.files import create_private
from memagent.agent.home import Home
from memagent.agent.journal import NewTurn, UnpurgedError
from memagent.agent.journal.database import Database
from memagent.agent.memory import Memory, open_journal
from memagent.agent.memory.checkpoint import CheckpointStore
from memagent.backends.errors import StorageError
from tests.agent.memories import scratch_of


@pytest.fixture
def place(tmp_path: Path) -> Home:
    """A home whose models folder is empty too, so that no weights of this machine are read."""
    return Home(tmp_path / "home", tmp_path / "models")


def fill(place: Home, *, stored: bool = True) -> None:
    """Give Ana a journal and, if asked for, a stored state of the small backend; all with private modes."""
    with Memory.open(place, "ana", "in_memory") as memory:
        memory.remember("monday", "user", "My dog is called Biscuit.")
        memory.remember("tuesday", "user", "The sea is warm.")
        if stored:
            memory.checkpoint()
    tighten(place)


def tighten(place: Home) -> None:
    for path in place.root.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def look(place: Home, *areas: str, mend: bool = False) -> list[Finding]:
    return [finding for finding in examine(place, mend=mend) if not areas or finding.area in areas]


def wrong(place: Home) -> list[str]:
    return [finding.message for finding in look(place) if finding.level == "wrong"]


def files_of(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in root.rglob("*")
        if not path.name.endswith(("-wal", "-shm"))
    }


def store_of(place: Home) -> CheckpointStore:
    return CheckpointStore(place.backend_folder("ana", "in_memory"))


def test_a_healthy_home_is_good_throughout(place: Home) -> None:
    fill(place)
    assert wrong(place) == []
    checkpoint, chain, journal, backend = look(place, "journal", "backend")
    assert checkpoint.message == "ana: in_memory was stored up to turn 2"
    assert chain.message == "ana: the chain of digests proves every turn and forgetting"
    assert (journal.level, journal.message) == ("good", "ana: 2 turns in 2 sessions")
    assert (backend.level, backend.message) == (
        "good",
        "in_memory of ana: stored up to turn 2, 0 to read at next use",
    )
    assert [finding.level for finding in look(place, "version")] == ["good"]


def test_a_home_as_memagent_writes_it_is_healthy(place: Home) -> None:
    with Memory.open(place, "ana", "in_memory") as memory:
        memory.remember("monday", "user", "hello")
        memory.checkpoint()
    assert wrong(place) == []


def test_a_memory_without_a_stored_state_is_good(place: Home) -> None:
    fill(place, stored=False)
    assert wrong(place) == []
    assert [(finding.level, "nothing stored" in finding.message) for finding in look(place, "backend")] == [
        ("good", True)
    ]


def test_turns_beyond_the_stored_state_are_counted(place: Home) -> None:
    fill(place)
    with open_journal(place, "ana") as journal:
        journal.extend([NewTurn("monday", "user", f"turn {place}") for place in range(3)])
    (backend,) = look(place, "backend")
    assert backend.message.endswith("stored up to turn 2, 3 to read at next use")


@pytest.mark.parametrize("mend", [False, True])
def test_looking_at_a_healthy_home_changes_nothing(mend: bool, place: Home) -> None:
    fill(place)
    with open_journal(place, "ana") as journal:
        journal.purge()
    before = files_of(place.root)
    look(place, mend=mend)
    assert files_of(place.root).keys() == before.keys()
    if not mend:
        assert files_of(place.root) == before


def test_a_home_that_is_not_there_is_noted_and_not_made(place: Home) -> None:
    (home,) = look(place, "home")
    assert (home.level, "does not exist yet" in home.message) == ("note", True)
    assert wrong(place) == []
    assert not place.root.exists()


def test_default_models_that_are_not_here_are_noted_with_the_command(place: Home) -> None:
    findings = look(place, "model")
    assert {finding.level for finding in findings} == {"note"}
    assert len(findings) == 2
    assert all(finding.mend.startswith("memagent models pull ") for finding in findings)


@pytest.mark.parametrize(
    ("loose", "bits"),
    [
        ("users", 0o050),
        ("users", 0o001),
        ("users/ana/journal.sqlite3", 0o004),
        ("users/ana/journal.sqlite3", 0o020),
        ("users/ana/backends/in_memory/lock", 0o044),
    ],
)
def test_loose_modes_are_found_and_mended(loose: str, bits: int, place: Home) -> None:
    fill(place)
    path = place.root / loose
    path.chmod(stat.S_IMODE(path.stat().st_mode) | bits)
    findings = [finding for finding in look(place, "home") if finding.level == "wrong"]
    assert len(findings) == 1
    assert findings[0].message == f"1 files or folders are readable for others, such as {path}"
    assert findings[0].mend == "memagent doctor --mend"
    assert stat.S_IMODE(path.stat().st_mode) & bits
    assert [finding.level for finding in look(place, "home", mend=True) if "readable" in finding.message] == [
        "note"
    ]
    assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert wrong(place) == []


def test_a_state_that_is_being_stored_is_no_loose_file(place: Home) -> None:
    fill(place)
    stored = next(place.backend_folder("ana", "in_memory").glob("*/turns.json"))
    beside = stored.parent.with_name("999999")
    beside.mkdir(mode=0o700)
    (beside / "turns.json").write_text("{}")
    (beside / "turns.json").chmod(0o644)
    assert wrong(place) == []
    (beside / "manifest.json").write_text("{}")
    assert "readable for others" in " ".join(wrong(place))


def test_a_damaged_checkpoint_is_wrong_and_mended_by_removing_it(place: Home) -> None:
    fill(place)
    state = next(place.backend_folder("ana", "in_memory").glob("*/turns.json"))
    state.write_bytes(state.read_bytes()[:-1])
    before = files_of(place.root)
    (backend,) = look(place, "backend")
    assert (backend.level, backend.mend) == ("wrong", "memagent backends rebuild in_memory --user ana")
    assert "turns.json" in backend.message
    assert files_of(place.root) == before
    (backend,) = look(place, "backend", mend=True)
    assert (backend.level, "removed" in backend.message) == ("note", True)
    assert not state.exists()
    assert wrong(place) == []
    with Memory.open(place, "ana", "in_memory") as memory:
        assert len(memory.recall("dog")) == 1


def test_a_broken_pointer_is_wrong_and_mended(place: Home) -> None:
    fill(place)
    (store_of(place).folder / "CURRENT").write_text("latest")
    assert len(wrong(place)) == 1
    look(place, mend=True)
    assert wrong(place) == []


def test_working_files_left_behind_are_noted_and_removed_by_mending(place: Home) -> None:
    fill(place)
    (create_private(scratch_of(place).make()) / "left").touch(mode=0o600)
    notes = [finding.message for finding in look(place, "backend") if finding.level == "note"]
    assert notes == ["in_memory of ana: working files of a process that was killed"]
    assert scratch_of(place).exists()
    look(place, mend=True)
    assert not scratch_of(place).exists()
    assert wrong(place) == []


def test_a_damaged_journal_is_reported_and_left_untouched(place: Home) -> None:
    fill(place, stored=False)
    garbage = b"garbage" * 1000
    place.journal_file("ana").write_bytes(garbage)
    for mend in (False, True):
        (journal,) = look(place, "journal", mend=mend)
        assert journal.level == "wrong"
        assert journal.message.startswith("ana: The journal ")
        assert "Put a newer backup in its place" in journal.mend
        assert "memagent accept-loss --user ana" in journal.mend
        assert place.journal_file("ana").read_bytes() == garbage


def test_a_damaged_journal_with_a_stored_state_is_reported(place: Home) -> None:
    fill(place)
    place.journal_file("ana").write_bytes(b"garbage" * 1000)
    assert any("not a database" in message for message in wrong(place))


def test_a_damaged_page_of_a_journal_is_reported(place: Home) -> None:
    with open_journal(place, "ana") as journal:
        journal.extend([NewTurn("monday", "user", f"turn {number} " * 20) for number in range(400)])
    file = place.journal_file("ana")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xa5" * 4096
    file.write_bytes(content)
    assert [finding.level for finding in look(place, "journal")] == ["wrong"]
    assert file.read_bytes() == bytes(content)


def test_one_users_damaged_journal_does_not_hide_anothers(place: Home) -> None:
    with open_journal(place, "bob") as journal:
        journal.append("monday", "user", "hello")
    fill(place, stored=False)
    place.journal_file("ana").write_bytes(b"garbage" * 1000)
    assert [(finding.level, finding.message.split(":")[0]) for finding in look(place, "journal")] == [
        ("wrong", "ana"),
        ("good", "bob"),
        ("good", "bob"),
    ]


def test_a_memory_in_use_is_noted_with_its_holder(place: Home) -> None:
    with Memory.open(place, "ana", "in_memory") as memory:
        memory.remember("monday", "user", "hello")
        (backend,) = look(place, "backend", mend=True)
        assert backend.level == "note"
        assert "in_memory of ana: in use by process " in backend.message
        assert scratch_of(place).exists()


def test_a_backend_that_is_not_installed_is_noted_and_kept(place: Home) -> None:
    fill(place)
    folder = create_private(place.backend_folder("ana", "somebodys"))
    (folder / "CURRENT").touch(mode=0o600)
    notes = [finding for finding in look(place, "backend", mend=True) if finding.level == "note"]
    assert [finding.message for finding in notes] == [
        "somebodys of ana: no installed package offers somebodys."
    ]
    assert (folder / "CURRENT").exists()


def test_mending_rewrites_a_journal_that_still_holds_forgotten_bytes(
    place: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(database: Database) -> None:
        raise StorageError("The disk is full.")

    with open_journal(place, "ana") as journal, monkeypatch.context() as patched:
        patched.setattr("memagent.agent.journal.journal.purge", no_room)
        journal.extend([NewTurn("monday", "user", f"The sea is warm {number}. " * 50) for number in range(9)])
        with pytest.raises(UnpurgedError, match="may still be in the journal's file"):
            journal.forget([2, 3])
    (note,) = [finding for finding in look(place, "journal") if finding.level == "note"]
    assert (
        note.message
        == "ana: a forgetting is unfinished: the journal's file may still hold what was forgotten."
    )
    assert note.mend == "memagent doctor --mend"
    look(place, mend=True)
    assert all(
        b"sea is warm 1" not in path.read_bytes() for path in place.user_folder("ana").glob("journal*")
    )
    assert {finding.level for finding in look(place, "journal")} == {"good"}


def test_looking_makes_no_journals(place: Home) -> None:
    create_private(place.root / "users" / "ana")
    (place.root / "users" / "stray").touch(mode=0o600)
    before = files_of(place.root)
    look(place)
    assert files_of(place.root) == before
