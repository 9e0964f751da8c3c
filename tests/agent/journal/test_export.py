"""Export and import: exact into an empty journal, safe to repeat, and clear about what is wrong in a file."""

from __future__ import annotations

import hashlib
import io
import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from memagent.agent.journal import Journal, NewAttachment, NewTurn
from memagent.agent.journal import export as transfer
from memagent.agent.journal.export import ExportResult, ImportResult
from memagent.agent.journal.lines import FORMAT
from memagent.agent.journal.proof import Proof
from memagent.agent.journal.records import MAX_ATTACHMENT_BYTES, Tombstone
from memagent.backends.errors import InputError
from memagent.backends.records import Turn
from tests.conftest import OpenMemory

PHOTO = NewAttachment("image/png", b"\x89PNG\r\n\x1a\n photo")
NOTE = NewAttachment("text/plain", b"a note")
OpenJournal = Callable[[str], Journal]
HEADER = {"kind": "memagent", "format": 1, "user": "ana"}
"""Of the format that has no chain, which can be written by hand."""
START = datetime(2024, 5, 1, 8, tzinfo=UTC)


@pytest.fixture
def open_journal(tmp_path: Path) -> OpenJournal:
    """Open a journal of this test by a short name."""
    return lambda name: Journal(tmp_path / f"{name}.sqlite3", "ana")


def exported(journal: Journal, session: str | None = None) -> str:
    file = io.StringIO()
    transfer.export(journal, file, session=session)
    return file.getvalue()


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "export.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def import_(journal: Journal, path: Path) -> ImportResult:
    """Import as the command line does: the whole file is proved before a turn is added."""
    with transfer.open_source(path, path.parent) as (source, _):
        transfer.prove(source)
        return transfer.load(journal, source)


def load(journal: Journal, path: Path, advance: Callable[[int], None] = lambda size: None) -> ImportResult:
    """Import without proving first, as an import that was interrupted."""
    with transfer.open_source(path, path.parent) as (source, _):
        return transfer.load(journal, source, advance)


def prove(path: Path, advance: Callable[[int], None] = lambda size: None) -> Proof:
    with transfer.open_source(path, path.parent) as (source, _):
        return transfer.prove(source, advance)


def turn_line(seq: int = 1, /, **changed: object) -> str:
    fields: dict[str, object] = {
        "kind": "turn",
        "seq": seq,
        "id": f"{seq:032x}",
        "session": "monday",
        "role": "user",
        "text": f"turn {seq}",
        "created_at": "2024-05-01T08:00:00+00:00",
    }
    return json.dumps(fields | changed)


def attachment_field(content: bytes = b"a note", /, **changed: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "media_type": "text/plain",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "content": b64encode(content).decode(),
    }
    return fields | changed


def lines(*rows: str | dict[str, object]) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def fill(journal: Journal) -> None:
    """A journal with everything in it: speakers, replies, gaps, forgettings, a session that is empty now."""
    new_turns = [
        NewTurn("monday", "user", "My dog is called Biscuit.", "Ana"),
        NewTurn("monday", "assistant", "Noted: Biscuit.", None, in_view=(1,)),
        NewTurn("gone", "user", "forget me"),
        NewTurn("tuesday", "system", "A line\nand\r\nanother\u2028third \U0001f98a \x01"),
        NewTurn("tuesday", "tool", '{"quoted": "\\"}'),
        NewTurn("tuesday", "user", "What is my dog called?", "Ána", seq=10),
        NewTurn("tuesday", "assistant", "Biscuit.", "Bot", in_view=(1, 2, 10), derived=True, recalled=(1, 2)),
        NewTurn("monday", "user", "the last one", attachments=(PHOTO,)),
    ]
    for place, turn in enumerate(new_turns):
        when = START + timedelta(hours=place, microseconds=place)
        journal.extend([replace(turn, created_at=when)])
    journal.forget([3])
    journal.forget([12])


def test_the_export_of_an_import_is_the_same_bytes(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        fill(first)
        text = exported(first)
        result = import_(second, written(tmp_path, text))
        assert exported(second) == text
        assert result == ImportResult(added=6, present=0, forgotten_here=0, to_forget=())
        assert list(second.turns()) == list(first.turns())
        assert second.forgettings() == first.forgettings()
        assert second.sessions() == first.sessions()
        assert second.last() == first.last() == (12, 2)
        assert second.append("monday", "user", "next").seq == 13


def test_an_export_says_how_many_turns_it_wrote_one_line_each(open_journal: OpenJournal) -> None:
    with open_journal("a") as journal:
        fill(journal)
        file = io.StringIO()
        assert transfer.export(journal, file) == ExportResult(turns=6, missing=0)
    kinds = [json.loads(line)["kind"] for line in file.getvalue().removesuffix("\n").split("\n")]
    entries = ["turn", "turn", "forgetting", *["turn"] * 4, "forgetting"]
    assert kinds == ["memagent", *["session"] * 3, *entries, "end"]
    assert "forget me" not in file.getvalue()


def test_an_empty_journal_is_exported_and_imported(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        rows = [json.loads(line) for line in exported(first).splitlines()]
        assert [row["kind"] for row in rows] == ["memagent", "end"]
        assert import_(second, written(tmp_path, exported(first))) == ImportResult(0, 0, 0, ())
        assert second.last() == (0, 0)


def test_the_export_of_one_session_holds_nothing_of_the_others(open_journal: OpenJournal) -> None:
    with open_journal("a") as journal:
        fill(journal)
        rows = [json.loads(line) for line in exported(journal, "monday").splitlines()]
    assert [row["kind"] for row in rows] == ["memagent", "session", "turn", "turn", "end"]
    assert {row["name"] for row in rows if row["kind"] == "session"} == {"monday"}
    assert {row["session"] for row in rows if row["kind"] == "turn"} == {"monday"}


def test_importing_twice_adds_nothing(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        fill(first)
        path = written(tmp_path, exported(first))
        import_(second, path)
        assert import_(second, path) == ImportResult(added=0, present=6, forgotten_here=0, to_forget=())
        assert exported(second) == exported(first)


def test_importing_ones_own_export_changes_nothing(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as journal:
        fill(journal)
        before = exported(journal)
        assert import_(journal, written(tmp_path, before)).added == 0
        assert exported(journal) == before


@pytest.mark.parametrize("batch", [1, 5000])
def test_an_import_cut_off_anywhere_can_be_completed(
    batch: int, open_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_BATCH_LINES", batch)
    with open_journal("a") as first:
        fill(first)
        text = exported(first)
        original = (
            list(first.turns()),
            first.sessions(),
            [forgetting.turn_id for forgetting in first.forgettings()],
        )
    rows = [row + "\n" for row in text.removesuffix("\n").split("\n")]
    for cut in range(1, len(rows)):
        with open_journal(f"cut{cut}") as second:
            load(second, written(tmp_path, "".join(rows[:cut])))
            import_(second, written(tmp_path, text))
            content = (
                list(second.turns()),
                second.sessions(),
                [forgetting.turn_id for forgetting in second.forgettings()],
            )
            assert content == original


@pytest.mark.parametrize("kept", [5, 8, 11])
def test_an_import_cut_off_and_completed_is_exported_as_the_same_bytes(
    kept: int, open_journal: OpenJournal, tmp_path: Path
) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        fill(first)
        text = exported(first)
        rows = [row + "\n" for row in text.removesuffix("\n").split("\n")]
        load(second, written(tmp_path, "".join(rows[:kept])))
        import_(second, written(tmp_path, text))
        assert second.last() == first.last()
        assert exported(second) == text


def test_a_line_cut_in_the_middle_is_named_and_what_came_before_can_be_completed(
    open_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_BATCH_LINES", 1)
    with open_journal("a") as first, open_journal("b") as second:
        fill(first)
        text = exported(first)
        cut = text.index("Noted")
        with pytest.raises(InputError, match=r"line 6: Invalid JSON"):
            load(second, written(tmp_path, text[:cut]))
        assert second.count() == 1
        import_(second, written(tmp_path, text))
        assert list(second.turns()) == list(first.turns())


def test_merging_moves_turns_and_what_replies_saw(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        for text in ("one", "two", "three", "four"):
            second.append("here", "user", text)
        question = first.append("there", "user", "asked")
        reply = first.append("there", "assistant", "told", in_view=(question.seq,))
        first.append("there", "assistant", "again", in_view=(question.seq, reply.seq), derived=True)
        assert import_(second, written(tmp_path, exported(first))).added == 3
        merged = list(second.turns(session="there"))
        assert [(turn.seq, turn.in_view) for turn in merged] == [(5, ()), (6, (5,)), (7, (5, 6))]
        assert [turn.id for turn in merged] == [turn.id for turn in first.turns()]
        assert second.replies_that_saw([5]) == [6, 7]
        assert second.replies_that_saw([1, 2, 3]) == []


def test_replies_point_at_moved_turns_also_when_the_import_was_cut_off(
    open_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_BATCH_LINES", 1)
    with open_journal("a") as first, open_journal("b") as second:
        for text in ("one", "two", "three", "four"):
            second.append("here", "user", text)
        first.append("there", "user", "asked")
        first.append("there", "assistant", "told", in_view=(1,))
        text = exported(first)
        load(second, written(tmp_path, "".join(text.splitlines(keepends=True)[:3])))
        assert second.count() == 5
        import_(second, written(tmp_path, text))
        assert [(turn.seq, turn.in_view) for turn in second.turns(session="there")] == [(5, ()), (6, (5,))]


def test_turns_forgotten_here_stay_forgotten(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        fill(first)
        path = written(tmp_path, exported(first))
        import_(second, path)
        second.forget([4, 5])
        result = import_(second, path)
        assert (result.added, result.forgotten_here, result.present, result.to_forget) == (0, 2, 4, ())
        assert second.get([4, 5]) == []
        assert [turn.seq for turn in second.turns()] == [1, 2, 10, 11]


def test_forgettings_in_the_file_are_reported_for_the_caller_to_follow(
    open_journal: OpenJournal, tmp_path: Path
) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        second.append("here", "user", "in the way")
        for text in ("one", "two", "three"):
            first.append("there", "user", text)
        import_(second, written(tmp_path, exported(first)))
        first.forget([1, 3])
        result = import_(second, written(tmp_path, exported(first)))
        assert result == ImportResult(added=0, present=1, forgotten_here=0, to_forget=(2, 4))
        assert [turn.text for turn in second.get(result.to_forget)] == ["one", "three"]
        second.forget(result.to_forget)
        assert import_(second, written(tmp_path, exported(first))).to_forget == ()


def test_a_turn_forgotten_elsewhere_cannot_be_imported_later(
    open_journal: OpenJournal, tmp_path: Path
) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        first.append("there", "user", "one")
        early = exported(first)
        first.forget([1])
        import_(second, written(tmp_path, exported(first)))
        result = import_(second, written(tmp_path, early))
        assert (result.added, result.forgotten_here, second.count()) == (0, 1, 0)


def test_forgettings_from_elsewhere_do_not_touch_turns_here(
    open_journal: OpenJournal, open_memory: OpenMemory, tmp_path: Path
) -> None:
    with open_journal("a") as first:
        for text in ("one", "two", "three"):
            first.append("there", "user", text)
        first.forget([2])
        path = written(tmp_path, exported(first))
    memory = open_memory()
    for text in ("apple", "banana", "cherry"):
        memory.remember("here", "user", text)
    import_(memory.journal, path)
    assert [item.text for item in memory.recall("banana")] == ["banana"]


def test_a_session_merged_alone_does_not_point_at_unrelated_turns(
    open_journal: OpenJournal, tmp_path: Path
) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        first.append("other", "user", "a fact")
        first.append("there", "user", "asked")
        first.append("there", "assistant", "told", in_view=(1, 2))
        for text in ("one", "two", "three", "four"):
            second.append("here", "user", text)
        import_(second, written(tmp_path, exported(first, "there")))
        assert [turn.in_view for turn in second.turns(session="there")] == [(), (5,)]


def test_a_reply_that_saw_a_turn_forgotten_here_does_not_bring_it_back(
    open_journal: OpenJournal, tmp_path: Path
) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        first.append("there", "user", "The word is xyzzy.")
        import_(second, written(tmp_path, exported(first)))
        second.forget([1])
        first.append("there", "assistant", "You said xyzzy.", in_view=(1,))
        import_(second, written(tmp_path, exported(first)))
        assert [turn.text for turn in second.turns() if "xyzzy" in turn.text] == []


BAD = {
    "bad JSON": ("{nonsense", 2),
    "not an object": ("[1, 2]", 2),
    "empty line": ("", 2),
    "unknown kind": (json.dumps({"kind": "photo"}), 2),
    "no kind": (json.dumps({"seq": 1}), 2),
    "short id": (turn_line(id="abc"), 2),
    "capital id": (turn_line(id="A" * 32), 2),
    "id of a path": (turn_line(id="../" + "0" * 29), 2),
    "empty text": (turn_line(text=""), 2),
    "blank text": (turn_line(text=" \n"), 2),
    "NUL in the text": (turn_line(text="a\0b"), 2),
    "lone surrogate": (turn_line(text="half \ud83d pair"), 2),
    "bad role": (turn_line(role="robot"), 2),
    "empty session": (turn_line(session=" "), 2),
    "session of two lines": (turn_line(session="a\nb"), 2),
    "seq zero": (turn_line(0, id="0" * 32), 2),
    "seq past all integers": (turn_line(2**63), 2),
    "time before the first year": (turn_line(created_at="0001-01-01T00:00:00+14:00"), 2),
    "seq that is text": (turn_line(seq="one"), 2),
    "no time": (turn_line(created_at=None), 2),
    "time without zone": (turn_line(created_at="2024-05-01T08:00:00"), 2),
    "recalled but not in view": (turn_line(recalled=[1]), 2),
    "attachments of text": (turn_line(attachments="one"), 2),
    "attachment that is not base64": (turn_line(attachments=[attachment_field(content="?")]), 2),
    "attachment without padding": (turn_line(attachments=[attachment_field(content="YQ")]), 2),
    "attachment of another digest": (turn_line(attachments=[attachment_field(sha256="0" * 64)]), 2),
    "attachment of another size": (turn_line(attachments=[attachment_field(size=7)]), 2),
    "empty attachment": (turn_line(attachments=[attachment_field(b"")]), 2),
    "attachment of a bad type": (turn_line(attachments=[attachment_field(media_type="png")]), 2),
    "attachment with an unknown field": (turn_line(attachments=[attachment_field(name="x")]), 2),
    "too many attachments": (turn_line(attachments=[attachment_field()] * 9), 2),
    "unknown field": (turn_line(mood="good"), 2),
    "in_view of text": (turn_line(in_view=["one"]), 2),
    "bad forgetting": (json.dumps({"kind": "forgetting", "seq": 1, "id": "abc"}), 2),
    "bad session": (json.dumps({"kind": "session", "name": "", "created_at": "2024-05-01T08:00:00Z"}), 2),
    "seq that stands": (turn_line(4) + "\n" + turn_line(4, id="a" * 32), 3),
    "seq that falls": (turn_line(4) + "\n" + turn_line(3), 3),
}


@pytest.mark.parametrize(("content", "number"), BAD.values(), ids=BAD.keys())
def test_a_bad_line_is_named_and_nothing_imported(
    content: str, number: int, open_journal: OpenJournal, tmp_path: Path
) -> None:
    path = written(tmp_path, lines(HEADER, content, turn_line(9)))
    with open_journal("a") as journal:
        with pytest.raises(InputError, match=rf"export\.jsonl, line {number}: "):
            import_(journal, path)
        assert (journal.last(), journal.sessions()) == ((0, 0), [])


@pytest.mark.parametrize(
    "again",
    [
        turn_line(3, id=f"{1:032x}"),
        turn_line(3, id=f"{1:032x}", text="turn 1"),
        json.dumps(
            {"kind": "forgetting", "seq": 3, "id": f"{1:032x}", "forgotten_at": "2024-05-01T08:00:00Z"}
        ),
    ],
)
def test_an_id_that_stands_twice_is_refused(again: str, open_journal: OpenJournal, tmp_path: Path) -> None:
    path = written(tmp_path, lines(HEADER, turn_line(1), turn_line(2), again))
    with open_journal("a") as journal:
        with pytest.raises(InputError, match=r"line 4: the id 0+1 stands in an earlier line too"):
            import_(journal, path)
        assert journal.count() == 0


@pytest.mark.parametrize("speaker", ["", "two\nlines", "a\0b"])
def test_a_bad_speaker_is_found_before_importing(speaker: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2"):
        prove(written(tmp_path, lines(HEADER, turn_line(1, speaker=speaker))))


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    good = lines(HEADER, turn_line(1))
    bad = turn_line(2, text="caf@").encode().replace(b"@", b"\xe9")
    with pytest.raises(InputError, match="line 3"):
        prove(written(tmp_path, good.encode() + bad + b"\n"))


def test_an_export_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, lines(HEADER | {"format": FORMAT + 1}))
    with pytest.raises(InputError, match=f"line 1: .*format {FORMAT + 1}.*upgrade"):
        prove(path)


def test_an_export_without_its_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1: expected the header.*found a turn"):
        prove(written(tmp_path, lines(turn_line(1))))


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        prove(written(tmp_path, ""))
    with pytest.raises(InputError, match=r"nowhere\.jsonl cannot be read"):
        prove(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        prove(tmp_path)


def test_a_whole_export_validates_and_reports_every_byte(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as journal, open_journal("b") as second:
        fill(journal)
        path = written(tmp_path, exported(journal))
        sizes: list[int] = []
        assert prove(path, sizes.append).lines == 13
        assert sum(sizes) == path.stat().st_size
        sizes.clear()
        load(second, path, sizes.append)
        assert sum(sizes) == path.stat().st_size


def test_a_large_journal_is_imported_over_several_batches(
    open_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_BATCH_LINES", 500)
    with open_journal("a") as first, open_journal("b") as second:
        first.extend(
            [
                NewTurn(f"s{place % 5}", "assistant", f"turn {place}", in_view=(max(1, place - 600),))
                for place in range(1, 2101)
            ]
        )
        first.forget(range(500, 600))
        second.append("here", "user", "in the way")
        import_(second, written(tmp_path, exported(first)))
        by_text = {turn.text: turn for turn in second.turns()}
        assert second.count() == 2001
        assert by_text["turn 2100"].in_view == (by_text["turn 1500"].seq,)


# attachments, and what was recalled


def test_attachments_travel_with_their_turn_and_are_proved(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        first.append("there", "user", "Two files.", attachments=[PHOTO, NOTE])
        path = written(tmp_path, exported(first))
        assert prove(path).ended
        import_(second, path)
        assert list(second.turns()) == list(first.turns())
        assert [second.attachment(1, position) for position in (0, 1)] == [PHOTO.content, NOTE.content]
        assert second.extent() == first.extent()
        assert second.audit() == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (
            b64encode(NOTE.content).decode(),
            b64encode(b"A note").decode(),
            "line 3: attachment 1: its content has another size or digest",
        ),
        ("text/plain", "text/html", "another head than was written"),
        ('"recalled": []', '"recalled": [1], "in_view": [1]', "another head than was written"),
    ],
    ids=["content", "media type", "recalled"],
)
def test_a_changed_attachment_is_found(
    before: str, after: str, fault: str, open_journal: OpenJournal, tmp_path: Path
) -> None:
    with open_journal("a") as first:
        first.append("there", "user", "Two files.", attachments=[PHOTO, NOTE])
        text = exported(first)
    assert before in text
    with pytest.raises(InputError, match=fault):
        prove(written(tmp_path, text.replace(before, after)))


def test_a_missing_and_a_swapped_attachment_are_found(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as first:
        first.append("there", "user", "Two files.", attachments=[PHOTO, NOTE])
        rows = [json.loads(line) for line in exported(first).splitlines()]
    photo, note = rows[2]["attachments"]
    for attachments in ([photo], [note], [note, photo], [photo, note, note], []):
        rows[2]["attachments"] = attachments
        with pytest.raises(InputError, match="another head than was written"):
            prove(written(tmp_path, lines(*rows)))


def test_a_line_with_the_largest_attachments_is_read(open_journal: OpenJournal, tmp_path: Path) -> None:
    largest = NewAttachment("image/png", bytes(range(256)) * (MAX_ATTACHMENT_BYTES // 256))
    with open_journal("a") as first, open_journal("b") as second:
        first.append("there", "user", "large", attachments=[largest, largest])
        import_(second, written(tmp_path, exported(first)))
        assert second.attachment(1, 1) == largest.content


def test_an_import_holds_a_bounded_number_of_bytes_at_a_time(
    open_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_BATCH_BYTES", 3000)
    sizes: list[int] = []
    with open_journal("a") as first, open_journal("b") as second:
        files = [NewAttachment("a/b", bytes([number]) * 1000) for number in range(1, 9)]
        first.extend([NewTurn("there", "user", "a file", attachments=(file,)) for file in files])
        extend = second.extend

        def recording(new: list[NewTurn | Tombstone], new_seqs: dict[int, int] | None) -> list[Turn]:
            sizes.append(len(new))
            return extend(new, new_seqs)

        monkeypatch.setattr(second, "extend", recording)
        import_(second, written(tmp_path, exported(first)))
        assert exported(second) == exported(first)
    assert sizes == [2, 2, 2, 2, 0]


def test_merging_moves_what_was_recalled(open_journal: OpenJournal, tmp_path: Path) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        for text in ("one", "two", "three", "four"):
            second.append("here", "user", text)
        for text in ("a fact", "asked"):
            first.append("there", "user", text)
        first.append("there", "assistant", "told", in_view=(1, 2), recalled=(1,), derived=True)
        import_(second, written(tmp_path, exported(first)))
        (reply,) = second.get([7])
        assert (reply.in_view, reply.recalled) == ((5, 6), (5,))
        assert second.audit() == []


def test_a_session_merged_alone_recalls_no_turn_that_is_not_there(
    open_journal: OpenJournal, tmp_path: Path
) -> None:
    with open_journal("a") as first, open_journal("b") as second:
        first.append("other", "user", "a fact")
        first.append("there", "user", "asked")
        first.append("there", "assistant", "told", in_view=(1, 2), recalled=(1,), derived=True)
        second.append("here", "user", "in the way")
        import_(second, written(tmp_path, exported(first, "there")))
        assert [(turn.in_view, turn.recalled) for turn in second.turns(session="there")] == [
            ((), ()),
            ((2,), ()),
        ]


def test_an_export_of_format_2_is_proved_and_imported(open_journal: OpenJournal) -> None:
    path = Path(__file__).with_name("format_2.jsonl")
    proof = prove(path)
    assert (proof.format, proof.turns, proof.forgettings, proof.ended) == (2, 4, 1, True)
    with open_journal("a") as journal:
        assert import_(journal, path).added == 4
        assert journal.extent().head == proof.head.hex()
        assert journal.get([5])[0].in_view == (1, 2, 4)
        assert {(turn.recalled, turn.attachments) for turn in journal.turns()} == {((), ())}
        assert journal.audit() == []


def test_an_export_of_format_1_is_imported(open_journal: OpenJournal, tmp_path: Path) -> None:
    path = written(tmp_path, lines(HEADER, turn_line(1), turn_line(2, in_view=[1], role="assistant")))
    with open_journal("a") as journal:
        assert import_(journal, path).added == 2
        assert journal.audit() == []
