"""Measuring memories through the public contract: identical turns, order and questions for all.

Each case is one user's journal. Its sessions are taken in one by one; then every question is asked
with abstention off, for the ranking, and once more with it on. A recollection of several turns takes
as many places in the ranking, so that long ones win nothing.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from memagent.agent.engine.agent import collect
from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.evaluation.benchmarks.bm25 import Bm25
from memagent.agent.evaluation.benchmarks.metrics import (
    KS,
    chance_recall_at,
    distinct,
    recall_at,
    reciprocal_rank,
    token_f1,
)
from memagent.agent.evaluation.benchmarks.run import Plan, Run
from memagent.agent.evaluation.datasets.dataset import Case, Question
from memagent.agent.evaluation.scenarios.player import Models
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.models.chat import ChatModel, Sampling
from memagent.agent.models.loader import as_local
from memagent.backends import registry
from memagent.backends.protocol import Embedder, LocalModel, Vectors

BM25 = "bm25"
CHANCE = "chance"
_DEPTH = 50
_ASKED = 5
_REPLY_TOKENS = 64


def work(plan: Plan) -> int:
    """How many steps ``measure`` yields if nothing is done yet."""
    questions = len(chosen(plan))
    cases = {case for case, _ in chosen(plan)}
    sessions = sum(count for case, count in plan.dataset.sessions.items() if case in cases)
    return len(cases) + len(plan.backends) * (sessions + 2 * questions)


def chosen(plan: Plan) -> frozenset[tuple[str, str]]:
    """The questions to ask, by case and id: all, or a seeded sample."""
    everything = plan.dataset.questions
    if plan.sample is None or plan.sample >= len(everything):
        return frozenset(everything)
    return frozenset(random.Random(plan.seed).sample(everything, plan.sample))  # noqa: S311


def measure(plan: Plan, run: Run, models: Models) -> Iterator[None]:
    """Measure what the run does not hold yet, yielding after every session taken in and question asked.

    Raises:
        MemagentError: a memory or a model failed; what was measured so far stays.
    """
    asked = chosen(plan)
    counted = _CountedModels(models, plan.model)
    for case in plan.dataset:
        questions = [question for question in case.questions if (case.id, question.id) in asked]
        if not questions:
            continue
        _baselines(run, case, questions)
        yield
        for backend, settings in plan.backends.items():
            yield from _Measurement(plan, run, models, counted, backend, settings, case, questions).steps()


def _baselines(run: Run, case: Case, questions: Sequence[Question]) -> None:
    """BM25 over turns and over whole sessions, and the expectation of a random order."""
    missing = [one for one in questions if not run.has("rank", CHANCE, case.id, one.id)]
    if not missing:
        return
    said = [turn.text for session in case.sessions for turn in session]
    names = [session[0].session for session in case.sessions]
    turns = Bm25(said)
    sessions = Bm25(["\n".join(turn.text for turn in session) for session in case.sessions])
    for question in missing:
        by_session = [names[place] for place in sessions.rank(question.text, max(KS))]
        row = _ranking(question, turns.rank(question.text, _DEPTH), by_session)
        if not run.has("rank", BM25, case.id, question.id):
            run.add({"kind": "rank", "method": BM25, "case": case.id, "item": question.id, **row})
        even = {
            level: {f"recall@{k}": chance_recall_at(size, k) for k in KS} if row[level] else None
            for level, size in (("turn", len(said)), ("session", len(names)))
        }
        run.add({"kind": "rank", "method": CHANCE, "case": case.id, "item": question.id, **row, **even})
    turns.close()
    sessions.close()


def _ranking(question: Question, turns: Sequence[int], sessions: Sequence[str]) -> dict[str, Any]:
    """A question's row: its category, and how well each level's evidence was found; None where it has none."""
    levels = (("turn", turns, question.turns), ("session", sessions, question.sessions))
    return {
        "category": question.category,
        "answerable": question.answerable,
        **{level: _found(ranked, evidence) for level, ranked, evidence in levels},
    }


def _found(ranked: Sequence[Any], evidence: frozenset[Any]) -> dict[str, float] | None:
    if not evidence:
        return None
    return {f"recall@{k}": recall_at(ranked, evidence, k) for k in KS} | {
        "rr": reciprocal_rank(ranked, evidence)
    }


class _CountedModels:
    """The shared models, and how often they were called: embeddings, and passes of the language model."""

    def __init__(self, models: Models, chat: str) -> None:
        self.calls = 0
        self._models = models
        self._chat = chat

    @cached_property
    def embedder(self) -> Embedder:
        return _CountingEmbedder(self._models.embedder(), self._count)

    @cached_property
    def local_model(self) -> LocalModel:
        model = as_local(self._models.chat(self._chat))
        # Before, as a pass may end early; inside, as a backend may call the layers without the head.
        model.model.base_model.register_forward_pre_hook(self._count)
        return model

    def _count(self, *_: object) -> None:
        self.calls += 1


class _CountingEmbedder:
    """An embedder that tells of every call."""

    def __init__(self, embedder: Embedder, called: Callable[[], None]) -> None:
        self._embedder, self._called = embedder, called
        self.name, self.digest = embedder.name, embedder.digest
        self.dimension, self.max_tokens = embedder.dimension, embedder.max_tokens

    def embed(self, texts: Sequence[str]) -> Vectors:
        self._called()
        return self._embedder.embed(texts)


@dataclass
class _Measurement:
    """One backend on one case."""

    plan: Plan
    run: Run
    models: Models
    counted: _CountedModels
    backend: str
    settings: Mapping[str, str]
    case: Case
    questions: Sequence[Question]

    def steps(self) -> Iterator[None]:
        steps = len(self.case.sessions) + 2 * len(self.questions)
        if all(self._has(kind, one.id) for one in self.questions for kind in ("rank", "judge")):
            yield from (None for _ in range(steps))
            return
        home = Home(self.run.home(self.backend), self.models.folder)
        with self._open(home, self._open_minded()) as memory:
            yield from self._take_in(memory)
            memory.checkpoint()
            yield from self._each(memory, "rank", self._rank)
        self._weigh(home)
        with self._open(home, self.settings) as memory:
            yield from self._each(memory, "judge", self._judge)
        shutil.rmtree(home.user_folder(self.case.id), ignore_errors=True)

    def _open(self, home: Home, settings: Mapping[str, str]) -> Memory:
        return Memory.open(
            home,
            self.case.id,
            self.backend,
            settings,
            make_embedder=lambda: self.counted.embedder,
            make_model=lambda: self.counted.local_model,
            seed=self.plan.seed,
        )

    def _open_minded(self) -> dict[str, str]:
        """The settings with abstention off, where the backend has it."""
        config = registry.get(self.backend).Config
        off = {"abstain": "false"} if "abstain" in {one.name for one in fields(config)} else {}
        return {**self.settings, **off}

    def _take_in(self, memory: Memory) -> Iterator[None]:
        """Let the memory take in each session not there yet, and note what it took."""
        known = {session.name for session in memory.journal.sessions()}
        for turns in self.case.sessions:
            name = turns[0].session
            if name not in known:
                memory.journal.extend(turns)
                calls, began = self.counted.calls, time.perf_counter()
                memory.catch_up()
                seconds = time.perf_counter() - began
                self._add("write", name, turns=len(turns), seconds=seconds, calls=self.counted.calls - calls)
            yield

    def _each(self, memory: Memory, kind: str, ask: Any) -> Iterator[None]:
        for question in self.questions:
            if not self._has(kind, question.id):
                self._add(kind, question.id, **ask(memory, question))
            yield

    def _rank(self, memory: Memory, question: Question) -> dict[str, Any]:
        calls, began = self.counted.calls, time.perf_counter()
        found = memory.recall(question.text, limit=_DEPTH)
        seconds = time.perf_counter() - began
        names = [turn.session for session in self.case.sessions for turn in session]
        places = distinct(seq - 1 for item in found for seq in item.seqs)
        row = _ranking(question, places, distinct(names[place] for place in places))
        return {**row, "seconds": seconds, "calls": self.counted.calls - calls}

    def _judge(self, memory: Memory, question: Question) -> dict[str, Any]:
        """Ask with abstention on, and let the model answer if that is wanted."""
        row: dict[str, Any] = {
            "category": question.category,
            "answerable": question.answerable,
            "abstained": not memory.recall(question.text, limit=_ASKED),
        }
        if self.plan.answers and question.answerable and question.answers:
            reply = self._answer(memory, question.text)
            row |= {"reply": reply, "f1": token_f1(reply, question.answers)}
        return row

    def _answer(self, memory: Memory, text: str) -> str:
        sampling = Sampling(max_tokens=_REPLY_TOKENS, seed=self.plan.seed)
        settings = Settings(channel=self.plan.channel, limit=_ASKED, sampling=sampling)
        model: ChatModel = self.models.chat(self.plan.model)
        return collect(list(Conversation(memory, model, "benchmark", settings).probe(text))).text

    def _weigh(self, home: Home) -> None:
        """Note the size of the stored state."""
        if not self._has("size", "state"):
            folder = home.backend_folder(self.case.id, self.backend)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            self._add("size", "state", bytes=size, turns=sum(map(len, self.case.sessions)))

    def _has(self, kind: str, item: str) -> bool:
        return self.run.has(kind, self.backend, self.case.id, item)

    def _add(self, kind: str, item: str, **values: Any) -> None:
        self.run.add({"kind": kind, "method": self.backend, "case": self.case.id, "item": item, **values})
