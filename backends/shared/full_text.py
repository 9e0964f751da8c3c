"""Passages with their provenance, and BM25 over their words, in one SQLite file (FTS5).

A turn is found by its own words and, with less weight, by the words of the turns it answers: "Summer
Sounds" says nothing about bands, the question before it does. Porter stemming; stop words left out of
queries. SQLite's BM25 has k1 = 1.2 and b = 0.75.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

from memagent.backends.errors import CheckpointError, StorageError
from memagent.backends.records import Turn
from memagent.backends.shared.chunking import LONGEST, Passage

_SCHEMA = """
CREATE TABLE IF NOT EXISTS passages (
    rowid INTEGER PRIMARY KEY, seq INTEGER NOT NULL, part INTEGER NOT NULL, id TEXT NOT NULL, session TEXT NOT NULL,
    role TEXT NOT NULL, speaker TEXT, created_at TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (seq, part));
CREATE INDEX IF NOT EXISTS passages_by_session ON passages (session, seq);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (own, context, tokenize = 'porter unicode61');
"""
DISK_CODES = (5, 8, 10, 13, 14)
"""SQLITE_BUSY, READONLY, IOERR, FULL and CANTOPEN: the disk fails, the content may be sound."""

_CONTEXT_TURNS = 2
_CONTEXT_WEIGHT = 0.5
_MOST_TERMS = 64
# accents may come as marks of their own, which FTS5 takes for a part of the word
_WORD = re.compile(r"[\w\u0300-\u036f]+")

# Question words are among them: in a question they say what is asked for, not what it is about.
STOP_WORDS_TEXT = """
a about after again all also am an and any are as at be because been before being but by can could
did do does doing done down for from had has have having he her here hers him his how i if in into
is it its just let like many me more most much my no not now of off on once one only or other our
out over own please s same she should so some such t tell than that the their them then there these
they this those through to too under until up us very was we were what when where which while who
whom whose why will with would you your yours
"""
STOP_WORDS = frozenset(STOP_WORDS_TEXT.split())


def terms(query: str) -> list[str]:
    """Return a question's distinct content words in order; all its words if none has content."""
    words = list(dict.fromkeys(_WORD.findall(query.lower())))
    return ([word for word in words if word not in STOP_WORDS] or words)[:_MOST_TERMS]


def match_any(words: Iterable[str]) -> str:
    """An FTS5 expression that any of the words satisfies; quoted, so that nothing in them is an operator."""
    return " OR ".join(f'"{word}"' for word in words)


class LexicalIndex:
    """The passages of one user.

    Args:
        file: the SQLite file; created if missing.

    Raises:
        CheckpointError: the file is not what this class writes.
        StorageError: the disk fails.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open()

    def add(self, passages: Sequence[Passage]) -> None:
        """Add passages of turns not held yet, in journal order."""
        with self._database:
            for passage in passages:
                turn = passage.turn
                row = (
                    turn.seq,
                    passage.part,
                    turn.id,
                    turn.session,
                    turn.role,
                    turn.speaker,
                    turn.created_at.isoformat(),
                    passage.text,
                )
                cursor = self._database.execute(
                    "INSERT INTO passages (seq, part, id, session, role, speaker, created_at, text) VALUES (?,?,?,?,?,?,?,?)",
                    row,
                )
                self._index(cursor.lastrowid or 0, passage)

    def known(self, seqs: Collection[int]) -> set[int]:
        """Return those of the seqs that are held."""
        ask = "SELECT 1 FROM passages WHERE seq = ? LIMIT 1"
        return {seq for seq in seqs if self._database.execute(ask, (seq,)).fetchone()}

    def keys(self, seqs: Collection[int] | None = None) -> list[str]:
        """Return the keys of all passages, or of these turns' passages, in order of seq and part."""
        if seqs is None:
            rows = self._database.execute("SELECT seq, part FROM passages ORDER BY seq, part").fetchall()
        else:
            ask = "SELECT seq, part FROM passages WHERE seq = ? ORDER BY part"
            rows = [row for seq in sorted(seqs) for row in self._database.execute(ask, (seq,))]
        return [f"{seq}:{part}" for seq, part in rows]

    def search(self, query: str, limit: int) -> dict[str, float]:
        """Return the keys of the passages that share words with the query and their BM25, best first."""
        words = terms(query)
        if not words:
            return {}
        rows = self._database.execute(
            "SELECT seq, part, -rank FROM passages JOIN (SELECT rowid AS found, bm25(words, 1.0, ?) AS rank FROM words"
            " WHERE words MATCH ? ORDER BY rank LIMIT ?) ON passages.rowid = found ORDER BY rank, passages.rowid",
            (_CONTEXT_WEIGHT, match_any(words), limit),
        )
        return {f"{seq}:{part}": score for seq, part, score in rows}

    def fetch(self, keys: Iterable[str]) -> dict[str, Passage]:
        """Return the passages under these keys; unknown keys are left out."""
        found: dict[str, Passage] = {}
        for key in keys:
            seq, _, part = key.partition(":")
            row = self._database.execute(
                "SELECT id, session, role, speaker, created_at, text FROM passages WHERE seq = ? AND part = ?",
                (seq, part),
            ).fetchone()
            if row:
                turn_id, session, role, speaker, created_at, text = row
                turn = Turn(
                    int(seq), turn_id, session, role, text, datetime.fromisoformat(created_at), speaker
                )
                found[key] = Passage(turn, int(part), text)
        return found

    def coverage(self, query: str, keys: Sequence[str]) -> dict[str, float]:
        """Return, for each passage, the idf-weighted share of the query's content words it holds, 0 to 1."""
        rowids = {key: self._rowid(key) for key in keys}
        total = self.count()[1]
        held = dict.fromkeys(keys, 0.0)
        whole = 0.0
        for word in terms(query):
            if word in STOP_WORDS:
                continue
            match = f'own : "{word}"'
            df = self._database.execute(
                "SELECT count(*) FROM words WHERE words MATCH ?", (match,)
            ).fetchone()[0]
            idf = math.log(1 + (total - df + 0.5) / (df + 0.5))
            whole += idf
            among = ",".join(map(str, rowids.values()))
            ask = f"SELECT rowid FROM words WHERE words MATCH ? AND rowid IN ({among})"  # noqa: S608 - numbers only
            having = {row[0] for row in self._database.execute(ask, (match,))}
            for key, rowid in rowids.items():
                held[key] += idf * (rowid in having)
        return {key: value / whole if whole else 0.0 for key, value in held.items()}

    def forget(self, seqs: Collection[int]) -> None:
        """Remove turns, and their words from the context of the turns after them, and rewrite the file."""
        with self._database:
            for seq in sorted(seqs):
                rows = self._database.execute(
                    "SELECT rowid, session FROM passages WHERE seq = ?", (seq,)
                ).fetchall()
                for rowid, _ in rows:
                    self._database.execute("DELETE FROM passages WHERE rowid = ?", (rowid,))
                    self._database.execute("DELETE FROM words WHERE rowid = ?", (rowid,))
                if rows:
                    self._index_again(rows[0][1], seq)
        self.compact()

    def compact(self) -> None:
        """Merge FTS5's segments, where deleted words linger, and rewrite the file."""
        with self._database:
            self._database.execute("INSERT INTO words (words) VALUES ('optimize')")
        self._database.execute("VACUUM")

    def count(self) -> tuple[int, int]:
        """Return the number of turns and of passages."""
        turns, passages = self._database.execute(
            "SELECT count(DISTINCT seq), count(*) FROM passages"
        ).fetchone()
        return turns, passages

    def search_count(self) -> int:
        """Return the number of passages whose words can be searched."""
        return int(self._database.execute("SELECT count(*) FROM words").fetchone()[0])

    def copy_to(self, file: Path) -> None:
        """Write the whole index into a new file, by SQLite's own backup: nothing else may open a file in use."""
        with closing(sqlite3.connect(file)) as copy:
            self._database.backup(copy)

    def close(self) -> None:
        self._database.close()

    def _open(self) -> None:
        database: sqlite3.Connection | None = None
        try:
            # Used from any thread, one at a time.
            self._database = database = sqlite3.connect(self._file, check_same_thread=False)
            # Working files are never trusted after a crash, so they need no syncing.
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA secure_delete = ON")
            database.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            if database is not None:
                database.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in DISK_CODES:
                raise StorageError(f"The word index {self._file} cannot be opened: {error}.") from error
            raise CheckpointError(f"{self._file.name} cannot be read: {error}") from error

    def _rowid(self, key: str) -> int:
        seq, _, part = key.partition(":")
        row = self._database.execute(
            "SELECT rowid FROM passages WHERE seq = ? AND part = ?", (seq, part)
        ).fetchone()
        return int(row[0])

    def _index(self, rowid: int, passage: Passage) -> None:
        turn = passage.turn
        date = f"{turn.created_at.day} {turn.created_at:%B %Y}"
        own = " ".join(filter(None, (date, turn.speaker, passage.text)))
        self._database.execute(
            "INSERT INTO words (rowid, own, context) VALUES (?, ?, ?)", (rowid, own, self._context(turn))
        )

    def _index_again(self, session: str, after: int) -> None:
        """Index anew the turns whose context may have held the turn that was at ``after``."""
        later = self._database.execute(
            "SELECT DISTINCT seq FROM passages WHERE session = ? AND seq > ? ORDER BY seq LIMIT ?",
            (session, after, _CONTEXT_TURNS),
        ).fetchall()
        for (seq,) in later:
            for passage in self.fetch(self.keys([seq])).values():
                rowid = self._rowid(passage.key)
                self._database.execute("DELETE FROM words WHERE rowid = ?", (rowid,))
                self._index(rowid, passage)

    def _context(self, turn: Turn) -> str:
        """Return what the turn answers: the two turns before it, if somebody else spoke last."""
        before = self._database.execute(
            "SELECT text, role, speaker FROM passages WHERE session = ? AND seq < ? AND part = 0 ORDER BY seq DESC LIMIT ?",
            (turn.session, turn.seq, _CONTEXT_TURNS),
        ).fetchall()
        if not before or before[0][1:] == (turn.role, turn.speaker):
            return ""
        return " ".join(text[:LONGEST] for text, _, _ in before)
