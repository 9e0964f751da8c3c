"""What stands beside every memory: BM25 over whole sessions, and the expectation of a random order.

BM25 over turns is a memory of its own, ``bm25``, and is measured like one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing

from memagent.agent.evaluation.datasets.dataset import Case, Question
from memagent.agent.evaluation.metrics import KS, chance_recall_at
from memagent.agent.evaluation.rows import RankRow, Scores
from memagent.backends.shared.words import any_word_query, query_words

CHANCE = "chance"
SESSION_BM25 = "bm25_sessions"
BASELINES = (CHANCE, SESSION_BM25)


class SessionSearch:
    """Full-text search over whole sessions: SQLite's FTS5 with Porter stems and its BM25 (k1 = 1.2, b = 0.75).

    Args:
        texts: the sessions; a session's place is its id.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._database = sqlite3.connect(":memory:")
        self._database.execute(
            "CREATE VIRTUAL TABLE sessions USING fts5(text, tokenize = 'porter unicode61')"
        )
        self._database.executemany("INSERT INTO sessions(rowid, text) VALUES (?, ?)", enumerate(texts))

    def rank(self, query: str, limit: int) -> list[int]:
        """Return the places of the sessions that share a word with the query, best first, at most ``limit``."""
        words = query_words(query)
        if not words:
            return []
        rows = self._database.execute(
            "SELECT rowid FROM sessions WHERE sessions MATCH ? ORDER BY bm25(sessions), rowid LIMIT ?",
            (any_word_query(words), limit),
        )
        return [place for (place,) in rows]

    def close(self) -> None:
        """Free the index."""
        self._database.close()


def baseline_rows(case: Case, questions: Sequence[Question]) -> Iterator[RankRow]:
    """Yield the rows of both baselines for each question.

    Args:
        case: the conversation that is searched.
        questions: those of the case's questions that are asked.
    """
    names = [session[0].session for session in case.sessions]
    texts = ["\n".join(turn.text for turn in session) for session in case.sessions]
    turn_count = sum(map(len, case.sessions))
    with closing(SessionSearch(texts)) as search:
        for question in questions:
            ranked = [names[place] for place in search.rank(question.text, max(KS))]
            yield _row(SESSION_BM25, case, question, session=Scores.of(ranked, question.sessions))
            yield _row(
                CHANCE,
                case,
                question,
                turn=_chance(turn_count) if question.turns else None,
                session=_chance(len(names)) if question.sessions else None,
            )


def _chance(size: int) -> Scores:
    """Return the scores that a random order of ``size`` items is expected to have."""
    return Scores(recall={k: chance_recall_at(size, k) for k in KS})


def _row(
    method: str, case: Case, question: Question, *, turn: Scores | None = None, session: Scores | None = None
) -> RankRow:
    return RankRow(
        method=method,
        case=case.id,
        item=question.id,
        category=question.category,
        answerable=question.answerable,
        turn=turn,
        session=session,
    )
