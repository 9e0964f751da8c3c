"""The high-water mark: never lowered, whole after a torn write, and no reason to lose anything."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from memagent.agent.journal import Extent
from memagent.agent.journal.chain import GENESIS
from memagent.agent.journal.mark import HighWaterMark, UnreadableMarkError


def extent(seq: int, forgetting: int = 0) -> Extent:
    return Extent(seq, f"{seq:064x}", forgetting, f"{forgetting:064x}")


@pytest.fixture
def mark(tmp_path: Path) -> HighWaterMark:
    return HighWaterMark(tmp_path / "journal.mark")


def test_there_is_none_at_first(mark: HighWaterMark) -> None:
    assert (mark.exists(), mark.read()) == (False, None)


def test_it_advances_and_is_never_lowered(mark: HighWaterMark) -> None:
    for seq, forgetting in ((3, 0), (5, 1), (4, 1), (5, 0), (2, 9), (9, 2)):
        mark.advance(extent(seq, forgetting))
    assert HighWaterMark(mark.file).read() == extent(9, 9)


def test_it_is_lowered_only_when_it_is_replaced(mark: HighWaterMark) -> None:
    mark.advance(extent(9, 2))
    mark.replace(extent(4, 1))
    assert mark.read() == extent(4, 1)


@pytest.mark.parametrize("at", range(0, 1024, 37))
def test_a_torn_write_leaves_the_mark_before_it(mark: HighWaterMark, at: int) -> None:
    for seq in (1, 2, 3):
        mark.advance(extent(seq))
    before = mark.file.read_bytes()
    mark.advance(extent(4))
    after = mark.file.read_bytes()
    mark.file.write_bytes(after[:at] + before[at:])
    assert mark.read() in (extent(3), extent(4))
    mark.advance(extent(5))
    assert mark.read() == extent(5)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"{}", b"\0" * 1024, b"\xff" * 600, b"[" * 5000, b"null\n" * 99]
)
def test_a_damaged_mark_says_so_and_is_written_anew(mark: HighWaterMark, content: bytes) -> None:
    mark.file.write_bytes(content)
    with pytest.raises(UnreadableMarkError, match=r"journal\.mark"):
        mark.read()
    mark.advance(extent(7))
    assert mark.read() == extent(7)


def test_a_mark_with_another_number_is_not_believed(mark: HighWaterMark) -> None:
    mark.advance(Extent(12, GENESIS.hex(), 0, GENESIS.hex()))
    mark.file.write_bytes(mark.file.read_bytes().replace(b'"seq": 12', b'"seq": 99'))
    with pytest.raises(UnreadableMarkError):
        mark.read()


def test_a_mark_that_cannot_be_written_stays_behind_without_a_word(tmp_path: Path) -> None:
    HighWaterMark(tmp_path / "nowhere" / "journal.mark").advance(extent(1))


def test_many_writers_leave_the_furthest(mark: HighWaterMark) -> None:
    def advance(first: int) -> None:
        for seq in range(first, 400, 4):
            HighWaterMark(mark.file).advance(extent(seq))

    threads = [threading.Thread(target=advance, args=(first,)) for first in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mark.read() == extent(399)
