"""Items: turns with a namespace and a key, found by key, outdated at once, exported, proved and forgotten as turns are."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.doctor import examine
from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewAttachment, NewTurn
from memagent.agent.journal.export import export, load
from memagent.agent.journal.item_index import outdated_seqs, read_entries, read_items, read_namespaces
from memagent.agent.journal.items import MEDIA_TYPE, NewItem, StoredItem, address_of, session_of
from memagent.agent.journal.proof import Source, prove
from memagent.agent.journal.records import MAX_ATTACHMENT_BYTES
from memagent.agent.journal.schema import VERSION
from memagent.agent.memory import Memory, open_journal
from memagent.backends.errors import InputError
from tests.agent.conversing import LocalScriptedModel, WithChannel
from tests.agent.journal.test_migration import schema_of
from tests.agent.memories import bytes_of, offer
from tests.conftest import OpenMemory

NAMESPACE = ("notes", "ana")
NOW = datetime.now(UTC)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite3", "ana") as journal:
        yield journal


def new(key: str, value: Any, *, namespace: tuple[str, ...] = NAMESPACE, **fields: Any) -> NewItem:
    return NewItem(namespace, key, {"text": value}, value if isinstance(value, str) else "text", **fields)


def put(journal: Journal, key: str, value: Any, **fields: Any) -> int:
    journal.put_items([new(key, value, **fields)])
    return journal.last()[0]


def get(journal: Journal, key: str, namespace: tuple[str, ...] = NAMESPACE) -> StoredItem | None:
    entries = read_entries(journal, datetime.now(UTC), addresses=[address_of(namespace, key)])
    return next(read_items(journal, [entry.seq for entry in entries]), None)


def value(journal: Journal, key: str) -> Any:
    item = get(journal, key)
    return item.value["text"] if item is not None else None


def values(journal: Journal, prefix: tuple[str, ...] = ()) -> list[Any]:
    seqs = [entry.seq for entry in read_entries(journal, datetime.now(UTC), prefix=prefix)]
    return [item.value["text"] for item in read_items(journal, seqs)]


def exported(journal: Journal) -> bytes:
    file = io.StringIO()
    export(journal, file)
    return file.getvalue().encode()


def imported(journal: Journal, content: bytes) -> None:
    source = Source("export", io.BytesIO(content))
    prove(source)
    load(journal, source)


def test_an_item_is_a_turn(journal: Journal) -> None:
    put(journal, "dog", "The dog is called Biscuit.")
    (turn,) = journal.turns()
    assert (turn.session, turn.role, turn.text) == ("store/notes/ana", "tool", "The dog is called Biscuit.")
    assert not turn.derived
    assert turn.attachments[0].media_type == MEDIA_TYPE
    item = get(journal, "dog")
    assert item == StoredItem(
        1, NAMESPACE, "dog", {"text": "The dog is called Biscuit."}, created_at=turn.created_at
    )
    assert journal.audit() == []


@pytest.mark.parametrize(
    "stored",
    [
        1,
        1.0,
        -0.0,
        0.1 + 0.2,
        10**40,
        True,
        None,
        "\u00e9\U0001f600\x00\u2028",
        "",
        [],
        {},
        {"": [1, {"a": [None, 2.5]}]},
    ],
)
def test_values_keep_their_types(journal: Journal, stored: Any) -> None:
    put(journal, "key", stored)
    assert repr(value(journal, "key")) == repr(stored)
    assert journal.audit() == []


@pytest.mark.parametrize(
    ("stored", "fault"),
    [
        (float("nan"), "not JSON compliant"),
        ({1: "one"}, "key 1, which is no text"),
        ([{"a": {2: "two"}}], r"value\['text'\]\[0\]\['a'\] has the key 2"),
        (object(), "not JSON serializable"),
        ({1, 2}, "not JSON serializable"),
        ("\ud800", "surrogates not allowed"),
        ("x" * MAX_ATTACHMENT_BYTES, f"{MAX_ATTACHMENT_BYTES:,} at most"),
        ([10**5000], "cannot be stored as JSON"),
    ],
)
def test_what_is_no_json_is_refused_and_nothing_is_stored(journal: Journal, stored: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        journal.put_items([new("fine", "fine"), new("key", stored)], [(NAMESPACE, "fine")])
    assert (journal.last(), values(journal)) == ((0, 0), [])


def test_a_value_that_holds_itself_is_refused(journal: Journal) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InputError, match="cannot be stored as JSON"):
        put(journal, "key", endless)


@pytest.mark.parametrize("minutes", [-1, float("nan"), float("inf"), 1e15, True, "5"])
def test_a_time_to_live_is_a_number_of_minutes(journal: Journal, minutes: Any) -> None:
    with pytest.raises(InputError, match="time to live"):
        put(journal, "key", "text", ttl_minutes=minutes)


def test_an_overwrite_outdates_at_once(journal: Journal) -> None:
    assert journal.put_items([new("dog", "Biscuit"), new("cat", "Tiger")]) == 0
    assert journal.put_items([new("dog", "Rex")]) == 1
    assert (value(journal, "dog"), values(journal)) == ("Rex", ["Rex", "Tiger"])
    assert outdated_seqs(journal) == {1}
    assert journal.audit() == []


def test_a_deleted_item_is_not_returned(journal: Journal) -> None:
    put(journal, "dog", "Biscuit")
    assert journal.put_items([], [(NAMESPACE, "dog"), (NAMESPACE, "unknown")]) == 1
    assert (get(journal, "dog"), values(journal), read_namespaces(journal, NOW)) == (None, [], [])
    put(journal, "dog", "Rex")
    assert value(journal, "dog") == "Rex"


def test_forgetting_a_turn_removes_the_item(journal: Journal) -> None:
    put(journal, "dog", "Biscuit")
    put(journal, "dog", "Rex")
    journal.forget([2])
    assert get(journal, "dog") is None
    assert outdated_seqs(journal) == {1}
    assert journal.audit() == []


def test_an_expired_item_is_not_returned(journal: Journal) -> None:
    long_ago = NOW - timedelta(minutes=10)
    journal.put_items(
        [new("dog", "Biscuit", ttl_minutes=5), new("cat", "Tiger", ttl_minutes=60)], now=long_ago
    )
    assert values(journal) == ["Tiger"]
    assert outdated_seqs(journal) == {1}
    journal.refresh_items([2], NOW)
    later = NOW + timedelta(minutes=55)
    assert [entry.seq for entry in read_entries(journal, later)] == [2]
    assert read_entries(journal, later + timedelta(minutes=6)) == []


def test_prefixes_are_of_whole_labels(journal: Journal) -> None:
    for labels in (("a",), ("a", "b"), ("ab",), ("a", 'b", "c'), ('a", "b',), ("a b", "ü")):
        put(journal, "key", str(labels), namespace=labels)
    assert len(values(journal)) == 6
    assert values(journal, ("a",)) == [str(("a", 'b", "c')), str(("a", "b")), str(("a",))]
    assert values(journal, ("a", "b")) == [str(("a", "b"))]
    assert values(journal, ("a b",)) == [str(("a b", "ü"))]
    assert set(read_namespaces(journal, datetime.now(UTC))) >= {("a b", "ü"), ('a", "b',)}


def test_sessions_have_printable_names_and_differ(journal: Journal) -> None:
    assert session_of(("a", "b")) == "store/a/b"
    odd = [("a/b",), ("a\nb",), ("x" * 300,), ("x" * 300, "y")]
    names = {session_of(labels) for labels in odd}
    assert len(names) == len(odd)
    for labels in odd:
        put(journal, "key", "text", namespace=labels)
    assert {session.name for session in journal.sessions()} == names


def test_items_that_are_not_searched_are_not_given_to_memories(memory: Memory) -> None:
    journal = memory.journal
    put(journal, "dog", "My dog is called Biscuit.", index=False)
    journal.put_items([NewItem(NAMESPACE, "empty", {}, " ")])
    assert [(turn.derived, turn.text) for turn in journal.turns()] == [
        (True, "My dog is called Biscuit."),
        (True, "(no text)"),
    ]
    assert memory.recall("What is the dog called?") == []
    assert value(journal, "dog") == "My dog is called Biscuit."


def test_outdated_items_are_not_recalled_before_they_are_purged(memory: Memory) -> None:
    put(memory.journal, "dog", "My dog is called Biscuit.")
    put(memory.journal, "dog", "My dog is called Rex.")
    assert [item.text for item in memory.recall("What is my dog called?")] == ["My dog is called Rex."]
    memory.journal.put_items([], [(NAMESPACE, "dog")])
    assert memory.recall("What is my dog called?") == []
    assert memory.journal.count() == 2


def test_the_same_text_again_is_recalled_once(memory: Memory) -> None:
    put(memory.journal, "dog", "My dog is called Biscuit.")
    put(memory.journal, "dog", "My dog is called Biscuit.")
    assert [item.seqs for item in memory.recall("What is my dog called?")] == [(2,)]


def test_the_next_forgetting_purges(memory: Memory, home: Home) -> None:
    put(memory.journal, "dog", "My dog is called Biscuit.")
    put(memory.journal, "dog", "My dog is called Rex.")
    other = memory.remember("monday", "user", "It rains.")
    memory.recall("dog")
    memory.checkpoint()
    assert b"Biscuit" in bytes_of(home.root)
    forgotten = memory.forget([other.seq])
    assert forgotten.turns == (other.seq,)
    assert [turn.seq for turn in memory.journal.turns()] == [2]
    assert outdated_seqs(memory.journal) == set()
    memory.close()
    assert b"Biscuit" not in bytes_of(home.root)


def test_opening_purges_what_a_killed_process_left(open_memory: OpenMemory, home: Home) -> None:
    with open_journal(home, "ana") as journal:
        put(journal, "dog", "My dog is called Biscuit.")
        journal.put_items([], [(NAMESPACE, "dog")])
    with open_memory() as memory:
        assert memory.journal.count() == 0
    assert b"Biscuit" not in bytes_of(home.root)
    assert [finding for finding in examine(home) if finding.level == "wrong"] == []


def test_replies_that_saw_an_outdated_item_are_forgotten_with_it(memory: Memory) -> None:
    put(memory.journal, "dog", "My dog is called Biscuit.")
    memory.journal.append_reply("monday", "It is Biscuit.", [1], derived=True, recalled=[1])
    memory.journal.put_items([], [(NAMESPACE, "dog")])
    assert [json.loads(line)["kind"] for line in exported(memory.journal).splitlines()] == [
        "memagent",
        "session",
        "session",
        "end",
    ]
    assert memory.forget(()).replies == (2,)
    assert memory.journal.count() == 0


def test_an_item_cannot_be_corrected(memory: Memory) -> None:
    put(memory.journal, "dog", "My dog is called Biscuit.")
    with pytest.raises(InputError, match="Put the corrected value"):
        memory.correct(1, "My dog is called Rex.")
    assert value(memory.journal, "dog") == "My dog is called Biscuit."


def test_an_export_holds_the_current_items_and_no_others(journal: Journal, tmp_path: Path) -> None:
    put(journal, "dog", "Biscuit")
    put(journal, "dog", "Rex", ttl_minutes=60)
    put(journal, "cat", "Tiger")
    journal.put_items([], [(NAMESPACE, "cat")])
    content = exported(journal)
    assert b"Biscuit" not in content
    assert b"Tiger" not in content
    with Journal(tmp_path / "copy.sqlite3", "ana") as copy:
        imported(copy, content)
        imported(copy, content)
        assert (value(copy, "dog"), values(copy)) == ("Rex", ["Rex"])
        assert copy.audit() == []
        assert exported(copy) == content
        (entry,) = read_entries(copy, datetime.now(UTC))
        assert entry.expires


def test_of_two_journals_the_newer_value_of_a_key_is_current(journal: Journal, tmp_path: Path) -> None:
    for later in (True, False):
        with Journal(tmp_path / f"{later}.sqlite3", "ana") as other:
            when = NOW + timedelta(minutes=1 if later else -1)
            other.put_items([new(f"dog {later}", "theirs")], now=when)
            journal.put_items([new(f"dog {later}", "ours")], now=NOW)
            imported(journal, exported(other))
    assert (value(journal, "dog True"), value(journal, "dog False")) == ("theirs", "ours")
    assert journal.audit() == []
    put(journal, "dog True", "ours again")  # although it is older by the clock
    assert value(journal, "dog True") == "ours again"


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"namespace":"a","key":"k","value":{},"ttl_minutes":null}',
        b'{"namespace":[],"key":"k","value":{},"ttl_minutes":null}',
        b'{"namespace":["a"],"key":1,"value":{},"ttl_minutes":null}',
        b'{"namespace":["a"],"key":"k","value":[],"ttl_minutes":null}',
        b'{"namespace":["a"],"key":"k","value":{},"ttl_minutes":-1}',
        b"[" * 100_000,
    ],
)
def test_an_attachment_that_holds_no_item_is_an_attachment(journal: Journal, content: bytes) -> None:
    journal.append("monday", "user", "text", attachments=[NewAttachment(MEDIA_TYPE, content)])
    assert values(journal) == []
    assert journal.audit() == []


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("DELETE FROM items WHERE seq = 1", "Turn 1 is an item, and the index of items lacks it"),
        ("UPDATE items SET address = 'x' WHERE seq = 1", "has another key for turn 1"),
        ("UPDATE items SET namespace = '[]' WHERE seq = 1", "has another key for turn 1"),
        ("UPDATE items SET ttl_minutes = 5 WHERE seq = 1", "has another time to live for turn 1"),
        ("UPDATE items SET seq = 2", "The index of items has turn 2, which is no item"),
    ],
)
def test_an_audit_finds_a_wrong_index(home: Home, statement: str, fault: str) -> None:
    with open_journal(home, "ana") as journal:
        put(journal, "dog", "Biscuit")
        journal.extend([NewTurn("monday", "user", "no item")])
        with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
            connection.execute(statement)
            connection.commit()
        assert any(fault in message for message in journal.audit())


def test_users_of_one_database_have_items_of_their_own(journal: Journal, tmp_path: Path) -> None:
    put(journal, "dog", "Biscuit")
    with Journal(tmp_path / "journal.sqlite3", "bob") as bobs:
        assert values(bobs) == []
        put(bobs, "dog", "Rex")
        bobs.put_items([], [(NAMESPACE, "dog")])
    assert value(journal, "dog") == "Biscuit"


def test_a_journal_of_version_4_gets_an_index_of_items(home: Home, tmp_path: Path) -> None:
    fresh = Home(tmp_path / "fresh", home.models)
    open_journal(fresh, "ana").close()
    with open_journal(home, "ana") as journal:
        journal.extend([NewTurn("monday", "user", f"turn {place}") for place in range(5)])
        journal.forget([2])
        journal.pin([3])
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        connection.executescript("DROP TABLE items; UPDATE meta SET value = '4' WHERE key = 'version'")
    with open_journal(home, "ana") as journal:
        assert [turn.seq for turn in journal.turns()] == [1, 3, 4, 5]
        assert [turn.seq for turn in journal.pinned()] == [3]
        put(journal, "dog", "Biscuit")
        assert value(journal, "dog") == "Biscuit"
        assert journal.audit() == []
    assert schema_of(home) == schema_of(fresh)
    assert VERSION == 5


def test_what_acts_inside_a_model_forgets_outdated_items_first(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, WithChannel)
    monkeypatch.setattr(WithChannel, "log", [])
    model = LocalScriptedModel([])
    with open_memory() as memory:
        put(memory.journal, "dog", "My dog is called Biscuit.")
        memory.catch_up()
        memory.journal.put_items([], [(NAMESPACE, "dog")])
        with memory.attached(model, "What is my dog called?"):
            assert memory.journal.count() == 0
