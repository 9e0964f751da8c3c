"""Importing exports of other programs: again, grown, after forgetting, damaged, large, and of several people."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.journal import Journal
from memagent.agent.journal.chat_exports import FORMATS, Options, convert
from memagent.agent.journal.chat_exports.conversion import MAX_TEXT_BYTES
from memagent.agent.journal.export import ImportResult
from memagent.agent.journal.proof import Source
from memagent.backends.errors import InputError
from tests.agent.journal.chat_exports import exports
from tests.agent.journal.chat_exports.conftest import Import


@pytest.mark.parametrize("name", exports.all_formats())
def test_importing_twice_adds_nothing(journal: Journal, import_: Import, name: str) -> None:
    journal.append("mine", "user", "A turn of my own.")
    content = exports.all_formats()[name]
    first = import_(name, content).result
    before = list(journal.turns())
    assert first == ImportResult(added=len(before) - 1, present=0, forgotten_here=0, to_forget=())
    assert import_(name, content).result == ImportResult(0, first.added, 0, ())
    assert list(journal.turns()) == before
    assert not journal.audit()


def test_a_conversation_that_has_grown_goes_on_in_its_session(journal: Journal, import_: Import) -> None:
    journal.append("Pets", "user", "A session of my own that has the same name.")
    import_("chatgpt", exports.chatgpt())
    later = exports.chatgpt()
    later[0]["mapping"]["u4"] = exports.chatgpt_node(
        "u4", "u3", "assistant", "How lovely!", create_time=1714550430.0
    )
    later[0]["current_node"] = "u4"
    another = exports.chatgpt_conversation(
        "c-3", "Pets", exports.chatgpt_node("y", None, "user", "First of all."), create_time=1.0
    )
    assert import_("chatgpt", [*later, another]).result.added == 2
    sessions = {turn.text: turn.session for turn in journal.turns()}
    assert sessions["I live in Porto."] == "Pets (2)"
    assert sessions[exports.BISCUIT] == sessions["How lovely!"] == "Pets (3)"
    assert sessions["First of all."] == "Pets (4)"


def test_what_was_forgotten_stays_so_with_the_replies_that_saw_it(journal: Journal, import_: Import) -> None:
    import_("chatgpt", exports.chatgpt())
    biscuit = next(turn.seq for turn in journal.turns() if turn.text == exports.BISCUIT)
    replies = journal.replies_that_saw([biscuit])
    assert [turn.text for turn in journal.get(replies)] == ["A fine name ."]
    journal.forget([biscuit, *replies])
    again = import_("chatgpt", exports.chatgpt()).result
    assert (again.added, again.present, again.forgotten_here) == (0, 2, 2)
    assert exports.BISCUIT not in [turn.text for turn in journal.turns()]


def test_a_reply_is_forgotten_with_any_turn_before_it(journal: Journal, import_: Import) -> None:
    messages = [{"role": "user", "content": f"Fact {number}."} for number in range(150)]
    for place in (10, 20, 150):
        messages.insert(place, {"role": "assistant", "content": f"Noted {place}."})
    import_("openai-messages", messages)
    replies = [turn.seq for turn in journal.turns() if turn.role == "assistant"]
    assert journal.replies_that_saw([1]) == replies
    assert journal.replies_that_saw([15]) == replies[1:]


def test_an_import_after_an_interruption_adds_what_is_missing(
    journal: Journal, import_: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append("mine", "user", "A turn of my own.")
    messages = [
        {"role": "user" if number % 2 else "assistant", "content": f"{number}"} for number in range(30)
    ]
    monkeypatch.setattr("memagent.agent.journal.export._BATCH_LINES", 4)
    extend, calls = Journal.extend, iter(range(100))

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return extend(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "extend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_("openai-messages", messages, title="chat")
    stored = journal.count() - 1
    assert 0 < stored < 30
    assert import_("openai-messages", messages, title="chat").result.added == 30 - stored
    turns = list(journal.turns(session="chat"))
    assert [turn.text for turn in turns] == [message["content"] for message in messages]
    assert all(set(turn.in_view) < {other.seq for other in turns} for turn in turns)
    assert turns[-2].in_view == (turns[-4].seq, turns[-3].seq)
    assert not journal.audit()


def test_several_peoples_conversations_are_never_mixed(journal: Journal, import_: Import) -> None:
    content = exports.mem0()
    content["results"][0]["user_id"] = "ben"
    with pytest.raises(InputError, match=r"belongs to 2 people: ana, ben. Choose one with --owner"):
        import_("mem0", content)
    assert journal.last() == (0, 0)
    import_("mem0", content, owner="ben")
    assert [turn.text for turn in journal.turns()] == ["Lives in Porto"]


def test_a_conversation_that_stands_there_twice_is_imported_once(journal: Journal, import_: Import) -> None:
    done = import_("claude", exports.claude() * 2)
    assert done.result.added == 3
    assert done.summary.left_out["of conversations that stand there twice"] == 4


def test_titles_become_names_that_can_be_printed(journal: Journal, import_: Import) -> None:
    titles = ["  A\n\u202eB\0C  ", "x" * 300, "\0", None, "\ud83d", "Emoji \U0001f98a"]
    import_(
        "chatgpt",
        [
            exports.chatgpt_conversation(
                f"{number}", title, exports.chatgpt_node("a", None, "user", "x"), create_time=number
            )
            for number, title in enumerate(titles)
        ],
    )
    names = [turn.session for turn in journal.turns()]
    assert names[:4] == ["A B C", "x" * 80, "imported", "chatgpt 1970-01-01"]
    assert names[5] == "Emoji \U0001f98a"
    assert len(set(names)) == 6


def test_characters_that_no_journal_holds_are_replaced_and_counted(journal: Journal, import_: Import) -> None:
    texts = ["a\0b", "\ud83d\ude00 whole", "half \ud83d", "fine"]
    lines = b"\n".join(json.dumps({"role": "user", "content": text}).encode() for text in texts)
    done = import_("openai-messages", lines)
    assert [turn.text for turn in journal.turns()] == ["ab", "\U0001f600 whole", "half \ufffd", "fine"]
    assert done.summary.repaired == 2


def test_a_message_that_is_too_large(journal: Journal, import_: Import) -> None:
    with pytest.raises(InputError, match="item 2: a message has 16,777,"):
        import_(
            "openai-messages", [{"role": "user", "content": text} for text in ("x", "x" * MAX_TEXT_BYTES)]
        )
    assert journal.last() == (0, 0)


@pytest.mark.parametrize("name", exports.all_formats())
def test_of_a_damaged_file_all_is_imported_or_nothing(journal: Journal, import_: Import, name: str) -> None:
    content = exports.all_formats()[name]
    generator = random.Random(7)
    messages: list[str] = []
    for _ in range(300):
        damaged = mutated(content, generator)
        before = journal.last()
        try:
            done = import_(name, damaged, owner=None)
        except InputError as error:
            assert journal.last() == before
            messages.append(str(error))
        else:
            assert done.result.added + done.result.present == done.summary.messages
    assert len(messages) > 50
    assert all(message.startswith("export.json") and len(message) < 500 for message in messages)
    assert not journal.audit()


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Return a file that was cut off, or has bytes or values changed, removed or doubled."""
    place = generator.randrange(len(content))
    other = generator.randrange(place, min(len(content), place + 200))
    match generator.randrange(6):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + bytes([generator.randrange(256)]) + content[place + 1 :]
        case 2:
            return content[:place] + content[other:]
        case 3:
            return content[:other] + content[place:]
        case 4:
            old = generator.choice([b'"', b"{", b"[", b"null", b"1", b"true", b":", b","])
            return content.replace(old, generator.choice([b"{}", b"[]", b"7", b'""', b"-1e9"]), 1)
        case _:
            words = content.split(b'"')
            chosen = generator.randrange(len(words))
            words[chosen] = generator.choice([b"", b"user", b"id", b"\\u0000", b"\\ud800", b"x" * 400])
            return b'"'.join(words)


class _Large:
    """A file of many conversations that is never in memory as a whole."""

    def __init__(self, conversations: int) -> None:
        self._parts = self._content(conversations)
        self._rest = b""
        self._first = b""

    def _content(self, conversations: int) -> Iterator[bytes]:
        yield b"["
        for number in range(conversations):
            nodes = [
                exports.chatgpt_node(f"{place}", f"{place - 1}" if place else None, "user", "word " * 100)
                for place in range(20)
            ]
            item = exports.chatgpt_conversation(f"c{number}", "Title", *nodes)
            yield (b"," if number else b"") + json.dumps(item).encode()
        yield b"]"

    def seek(self, place: int, whence: int = 0) -> int:
        self._rest = self._first + self._rest
        self._first = b""
        return place

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (part := next(self._parts, b"")):
            self._rest += part
        result, self._rest = self._rest[:size], self._rest[size:]
        self._first = result if size < 10 else b""
        return result


def test_a_large_file_is_not_read_into_memory_at_once(tmp_path: Path) -> None:
    source: Any = Source("large.json", _Large(400))  # type: ignore[arg-type]
    read = 0

    def advance(count: int) -> None:
        nonlocal read
        read += count

    with convert(Source("small.json", BytesIO(b"[]")), FORMATS["chatgpt"], tmp_path, Options()):
        pass  # imports what it needs
    tracemalloc.start()
    try:
        with convert(source, FORMATS["chatgpt"], tmp_path, Options(), advance) as converted:
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert converted.summary.messages == 8000
    assert read > 6_000_000
    assert peak < 1_500_000
