"""Full-text search: chunks with their provenance and BM25 over their words, in one SQLite file (FTS5).

Words are stemmed (Porter); case and accents do not count. What a word is, in any script: ``words.py``. FTS5's BM25 has
k1 = 1.2 and b = 0.75.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from memagent.backends.errors import CheckpointError, StorageError
from memagent.backends.records import Turn
from memagent.backends.shared.chunking import Chunk
from memagent.backends.shared.words import any_word_query, searchable

_CHUNKS = """
CREATE TABLE IF NOT EXISTS chunks (
    rowid INTEGER PRIMARY KEY, seq INTEGER NOT NULL, part INTEGER NOT NULL, id TEXT NOT NULL, session TEXT NOT NULL,
    role TEXT NOT NULL, speaker TEXT, created_at TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (seq, part));
CREATE INDEX IF NOT EXISTS chunks_by_session ON chunks (session, seq);
"""
DISK_CODES = (5, 8, 10, 13, 14)
"""SQLITE_BUSY, READONLY, IOERR, FULL and CANTOPEN: the disk fails, the content may be sound."""

MAX_QUERY_WORDS = 64
"""Words of a query that are searched for; the time of a search grows with them, and a message may have thousands."""


@dataclass(frozen=True)
class IndexCounts:
    """Numbers of turns, of their chunks, and of chunks whose words can be searched; the last two are equal in a sound file."""

    turns: int
    chunks: int
    searchable: int


class FullTextIndex:
    """The chunks of one user, searched by their words.

    A subclass may index more than a chunk's text: it names ``columns`` with their ``weights`` and overrides ``document``.

    Args:
        file: the SQLite file; created if missing.

    Raises:
        CheckpointError: the file is not a full-text index.
        StorageError: the disk fails.
    """

    columns: ClassVar[tuple[str, ...]] = ("text",)
    weights: ClassVar[tuple[float, ...]] = (1.0,)
    """Factor of each column's term frequencies in BM25."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open()

    def document(self, chunk: Chunk) -> tuple[str, ...]:
        """Return the searchable text of each column for a chunk; the first column is the chunk's own."""
        return (chunk.text,)

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Add chunks of turns that are not held yet, in journal order.

        Raises:
            sqlite3.IntegrityError: a chunk is held already.
        """
        with self._database:
            for chunk in chunks:
                turn = chunk.turn
                created_at = turn.created_at.isoformat()
                cursor = self._database.execute(
                    "INSERT INTO chunks (seq, part, id, session, role, speaker, created_at, text) VALUES (?,?,?,?,?,?,?,?)",
                    (
                        turn.seq,
                        chunk.part,
                        turn.id,
                        turn.session,
                        turn.role,
                        turn.speaker,
                        created_at,
                        chunk.text,
                    ),
                )
                self._index(cursor.lastrowid or 0, chunk)

    def known(self, seqs: Collection[int]) -> set[int]:
        """Return those of the seqs that are held."""
        select = "SELECT 1 FROM chunks WHERE seq = ? LIMIT 1"
        return {seq for seq in seqs if self._database.execute(select, (seq,)).fetchone()}

    def keys(self, seqs: Collection[int] | None = None) -> list[str]:
        """Return the keys of all chunks, or of these turns' chunks, in order of seq and part."""
        if seqs is None:
            rows = self._database.execute("SELECT seq, part FROM chunks ORDER BY seq, part").fetchall()
        else:
            select = "SELECT seq, part FROM chunks WHERE seq = ? ORDER BY part"
            rows = [row for seq in sorted(seqs) for row in self._database.execute(select, (seq,))]
        return [f"{seq}:{part}" for seq, part in rows]

    def search(
        self, words: Sequence[str], limit: int, seqs: Collection[int] | None = None
    ) -> dict[str, float]:
        """Rank the chunks that hold any of the words.

        Args:
            words: as ``query_words`` returns them; the first ``MAX_QUERY_WORDS`` count.
            limit: most chunks returned.
            seqs: the turns whose chunks are ranked; None: all.

        Returns:
            Keys with their BM25 score, best first; a higher score is better. Equal scores are in order of insertion.
        """
        return {
            key: score for key, (score,) in self.search_weighted(words, limit, [self.weights], seqs).items()
        }

    def search_weighted(
        self,
        words: Sequence[str],
        limit: int,
        weightings: Sequence[Sequence[float]],
        seqs: Collection[int] | None = None,
    ) -> dict[str, tuple[float, ...]]:
        """Rank the chunks that hold any of the words, and score them with several weightings of the columns.

        Args:
            words: as in ``search``.
            limit: most chunks returned.
            weightings: a factor for each column; the first one ranks.
            seqs: as in ``search``.

        Returns:
            Keys with a BM25 score for each weighting, best first; a higher score is better. Equal scores are in order of insertion.
        """
        if not words:
            return {}
        scores = [f"-bm25(documents, {', '.join(map(str, weights))})" for weights in weightings]
        names = [f"score{place}" for place in range(len(scores))]
        columns = ", ".join(f"{score} AS {name}" for score, name in zip(scores, names, strict=True))
        # With "+", SQLite filters what matches; else it would match anew for each row.
        among = "" if seqs is None else f"AND +rowid IN ({_rowids(seqs)})"
        hits = f"SELECT rowid AS hit, {columns} FROM documents WHERE documents MATCH ? {among} ORDER BY score0 DESC, rowid LIMIT ?"  # noqa: S608 - numbers only
        rows = self._database.execute(
            f"SELECT seq, part, {', '.join(names)} FROM chunks JOIN ({hits}) ON chunks.rowid = hit ORDER BY score0 DESC, hit",  # noqa: S608
            (any_word_query(words[:MAX_QUERY_WORDS]), limit),
        )
        return {f"{seq}:{part}": tuple(values) for seq, part, *values in rows}

    def fetch(self, keys: Iterable[str]) -> dict[str, Chunk]:
        """Return the chunks under these keys; unknown keys are left out.

        The turn of a chunk holds the chunk's text, not the whole turn's.
        """
        chunks: dict[str, Chunk] = {}
        for key in keys:
            seq, _, part = key.partition(":")
            row = self._database.execute(
                "SELECT id, session, role, speaker, created_at, text FROM chunks WHERE seq = ? AND part = ?",
                (seq, part),
            ).fetchone()
            if row:
                turn_id, session, role, speaker, created_at, text = row
                turn = Turn(
                    int(seq), turn_id, session, role, text, datetime.fromisoformat(created_at), speaker
                )
                chunks[key] = Chunk(turn, int(part), text)
        return chunks

    def coverage(self, words: Sequence[str], keys: Sequence[str]) -> dict[str, float]:
        """Return the share of the words that each chunk holds, each word weighted by its inverse document frequency.

        Args:
            words: as ``content_words`` returns them; the first ``MAX_QUERY_WORDS`` count. Only first columns are looked at.
            keys: keys of chunks that are held.

        Returns:
            Each key's share, 0 to 1; 1 means that the chunk holds every word. 0 if there are no words.
        """
        rowids = {key: self._rowid(key) for key in keys}
        chunk_count = self.count().searchable
        covered = dict.fromkeys(keys, 0.0)
        total = 0.0
        for word in words[:MAX_QUERY_WORDS]:
            word_query = f"{self.columns[0]} : {any_word_query([word])}"
            (document_frequency,) = self._database.execute(
                "SELECT count(*) FROM documents WHERE documents MATCH ?", (word_query,)
            ).fetchone()
            idf = math.log(1 + (chunk_count - document_frequency + 0.5) / (document_frequency + 0.5))
            total += idf
            candidates = ",".join(map(str, rowids.values()))
            select = f"SELECT rowid FROM documents WHERE documents MATCH ? AND rowid IN ({candidates})"  # noqa: S608 - numbers only
            holders = {row[0] for row in self._database.execute(select, (word_query,))}
            for key, rowid in rowids.items():
                covered[key] += idf * (rowid in holders)
        return {key: value / total if total else 0.0 for key, value in covered.items()}

    def forget(self, seqs: Collection[int]) -> None:
        """Remove turns and rewrite the file, so that no byte of them stays. Unknown seqs are ignored."""
        with self._database:
            for seq in sorted(seqs):
                self._remove(seq)
        self.compact()

    def compact(self) -> None:
        """Merge FTS5's segments, where deleted words linger, and rewrite the file."""
        with self._database:
            self._database.execute("INSERT INTO documents (documents) VALUES ('optimize')")
        self._database.execute("VACUUM")

    def count(self) -> IndexCounts:
        """Return how many turns and chunks are held."""
        turns, chunks = self._database.execute("SELECT count(DISTINCT seq), count(*) FROM chunks").fetchone()
        (searchable,) = self._database.execute("SELECT count(*) FROM documents").fetchone()
        return IndexCounts(turns, chunks, searchable)

    def copy_to(self, file: Path) -> None:
        """Write the whole index into a new file, by SQLite's own backup: nothing else may open a file in use."""
        with closing(sqlite3.connect(file)) as copy:
            self._database.backup(copy)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _open(self) -> None:
        database: sqlite3.Connection | None = None
        columns = ", ".join(self.columns)
        try:
            # Used from any thread, one at a time.
            self._database = database = sqlite3.connect(self._file, check_same_thread=False)
            # Working files are never trusted after a crash, so they need no syncing.
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA secure_delete = ON")
            database.executescript(_CHUNKS)
            database.execute(
                f"CREATE VIRTUAL TABLE IF NOT EXISTS documents USING fts5 ({columns}, tokenize = 'porter unicode61')"
            )
        except sqlite3.DatabaseError as error:
            if database is not None:
                database.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in DISK_CODES:
                raise StorageError(f"The full-text index {self._file} cannot be opened: {error}.") from error
            raise CheckpointError(f"{self._file.name} cannot be read: {error}") from error

    def _rowid(self, key: str) -> int:
        seq, _, part = key.partition(":")
        row = self._database.execute(
            "SELECT rowid FROM chunks WHERE seq = ? AND part = ?", (seq, part)
        ).fetchone()
        return int(row[0])

    def _index(self, rowid: int, chunk: Chunk) -> None:
        names, marks = ", ".join(self.columns), ", ".join("?" * len(self.columns))
        self._database.execute(
            f"INSERT INTO documents (rowid, {names}) VALUES (?, {marks})",  # noqa: S608 - names of columns only
            (rowid, *map(searchable, self.document(chunk))),
        )

    def _remove(self, seq: int) -> None:
        rowids = self._database.execute("SELECT rowid FROM chunks WHERE seq = ?", (seq,)).fetchall()
        self._database.executemany("DELETE FROM chunks WHERE rowid = ?", rowids)
        self._database.executemany("DELETE FROM documents WHERE rowid = ?", rowids)


def _rowids(seqs: Collection[int]) -> str:
    """Return the query for the chunks of turns."""
    return f"SELECT rowid FROM chunks WHERE seq IN ({','.join(map(str, seqs))})"  # noqa: S608 - numbers only
