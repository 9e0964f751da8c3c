"""Measuring memories through the public contract: identical turns, order and questions for all.

Each case is one user's journal. A memory remembers its sessions one by one; then every question is asked
with abstention off, for the ranking, and once more with the settings as given. A recollection of several turns takes
as many ranks, so that long recollections have no advantage.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from memagent.agent.engine.agent import collect
from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.evaluation.baselines import BASELINES, baseline_rows
from memagent.agent.evaluation.datasets.dataset import Case, Question
from memagent.agent.evaluation.metrics import distinct, token_f1
from memagent.agent.evaluation.rows import JudgeRow, RankRow, Row, Scores, SizeRow, WriteRow
from memagent.agent.evaluation.run import Plan, Run
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.memory.composition import open_memory
from memagent.agent.models.chat import ChatModel, Sampling
from memagent.agent.models.models import Models
from memagent.backends import registry
from memagent.backends.protocol import Embedder, Vectors

_RANKING_LIMIT = 50
_ABSTENTION_LIMIT = 5
_REPLY_TOKENS = 64


def count_steps(plan: Plan) -> int:
    """Return how many steps ``measure`` yields."""
    questions = selected_questions(plan)
    cases = {case for case, _ in questions}
    sessions = sum(count for case, count in plan.dataset.sessions.items() if case in cases)
    return len(cases) + len(plan.measured) * (sessions + 2 * len(questions))


def selected_questions(plan: Plan) -> frozenset[tuple[str, str]]:
    """Return the questions to ask, by case and id: all, or a sample drawn by the plan's seed."""
    questions = plan.dataset.questions
    if plan.sample is None or plan.sample >= len(questions):
        return frozenset(questions)
    return frozenset(random.Random(plan.seed).sample(questions, plan.sample))  # noqa: S311


def measure(plan: Plan, run: Run, models: Models) -> Iterator[None]:
    """Measure what the run does not hold yet, yielding after every session remembered and question asked.

    Journals and stored states are in homes of the run's own folder. Models are fetched and loaded as the backends need them.

    Args:
        plan: what to measure.
        run: where rows are kept.
        models: the shared embedder and language models.

    Raises:
        MemagentError: a memory or a model failed; what was measured so far stays.
    """
    selected = selected_questions(plan)
    counted = _CountedModels(models, plan.model)
    for case in plan.dataset:
        questions = [question for question in case.questions if (case.id, question.id) in selected]
        if not questions:
            continue
        _measure_baselines(run, case, questions)
        yield
        for backend, settings in plan.measured.items():
            yield from _Measurement(plan, run, models, counted, backend, settings, case, questions).steps()


def _measure_baselines(run: Run, case: Case, questions: Sequence[Question]) -> None:
    """Add the rows of both baselines that the run does not have yet."""
    missing = [
        question
        for question in questions
        if not all(run.has("rank", name, case.id, question.id) for name in BASELINES)
    ]
    for row in baseline_rows(case, missing) if missing else ():
        if not run.has(*row.key):
            run.add(row)


class _CountedModels:
    """The shared models, counting calls of the embedder and passes of the language model."""

    def __init__(self, models: Models, chat: str) -> None:
        self.calls = 0
        self._models = models
        self._chat = chat

    @cached_property
    def embedder(self) -> Embedder:
        """The shared embedder; its calls are counted."""
        return _CountingEmbedder(self._models.embedder(), self._count)

    @cached_property
    def chat_model(self) -> ChatModel:
        """The language model, loaded on first use; each of its passes is counted from then on."""
        model: Any = self._models.local(self._chat)
        # Before, as a pass may end early; inside, as a backend may call the layers without the head.
        model.model.base_model.register_forward_pre_hook(self._count)
        counted: ChatModel = model
        return counted

    def _count(self, *_: object) -> None:
        self.calls += 1


class _CountingEmbedder:
    """An embedder that reports every call."""

    def __init__(self, embedder: Embedder, on_call: Callable[[], None]) -> None:
        self._embedder, self._on_call = embedder, on_call
        self.name, self.digest = embedder.name, embedder.digest
        self.dimension, self.max_tokens = embedder.dimension, embedder.max_tokens

    def embed(self, texts: Sequence[str]) -> Vectors:
        self._on_call()
        return self._embedder.embed(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self._on_call()
        return self._embedder.embed_queries(texts)


@dataclass
class _Measurement:
    """One backend on one case. Its journal and state are in a folder of the run, never in the user's own home."""

    plan: Plan
    run: Run
    models: Models
    counted: _CountedModels
    backend: str
    settings: Mapping[str, str]
    case: Case
    questions: Sequence[Question]

    def steps(self) -> Iterator[None]:
        """Measure, yielding after each step, and delete the case's folder at the end.

        The folder stays if the measurement is interrupted, so that the next run continues from it. The number of steps does not
        depend on what the run already holds.
        """
        steps = len(self.case.sessions) + 2 * len(self.questions)
        if all(self._has(kind, question.id) for question in self.questions for kind in ("rank", "judge")):
            yield from (None for _ in range(steps))
            return
        run_home = Home(self.run.home(self.backend), self.models.folder)
        with self._open(run_home, self._settings_without_abstention()) as memory:
            yield from self._remember_sessions(memory)
            memory.checkpoint()
            yield from self._ask_all(memory, "rank", self._rank)
        self._measure_size(run_home)
        with self._open(run_home, self.settings) as memory:
            yield from self._ask_all(memory, "judge", self._judge)
        shutil.rmtree(run_home.user_folder(self.case.id), ignore_errors=True)

    def _open(self, home: Home, settings: Mapping[str, str]) -> Memory:
        """Open the memory in the run's own home. The models that it needs are fetched first, and loaded on first use."""
        counted = replace(
            self.models, embedder=lambda: self.counted.embedder, chat=lambda name: self.counted.chat_model
        )
        return open_memory(
            home, counted, self.case.id, self.backend, settings, model=self.plan.model, seed=self.plan.seed
        )

    def _settings_without_abstention(self) -> dict[str, str]:
        """Return the settings with abstention off in each of the backends that has it."""
        settings = dict(self.settings)
        choices = registry.choose(self.backend, settings)
        for choice in choices:
            if "abstain" in {field.name for field in fields(choice.backend.Config)}:
                settings["abstain" if len(choices) == 1 else f"{choice.name}.abstain"] = "false"
        return settings

    def _remember_sessions(self, memory: Memory) -> Iterator[None]:
        """Remember each session that the journal does not hold yet, and record its cost."""
        known = {session.name for session in memory.journal.sessions()}
        for turns in self.case.sessions:
            name = turns[0].session
            if name not in known:
                memory.journal.extend(turns)
                calls, start = self.counted.calls, time.perf_counter()
                memory.catch_up()
                seconds = time.perf_counter() - start
                self.run.add(
                    WriteRow(
                        method=self.backend,
                        case=self.case.id,
                        item=name,
                        turns=len(turns),
                        seconds=seconds,
                        calls=self.counted.calls - calls,
                    )
                )
            yield

    def _ask_all(self, memory: Memory, kind: str, ask: Callable[[Memory, Question], Row]) -> Iterator[None]:
        """Measure each question that the run does not have yet with ``ask``, and add the row to the run."""
        for question in self.questions:
            if not self._has(kind, question.id):
                self.run.add(ask(memory, question))
            yield

    def _rank(self, memory: Memory, question: Question) -> RankRow:
        """Recall for a question, and return where its evidence ranks, with time and model calls."""
        calls, start = self.counted.calls, time.perf_counter()
        recollections = memory.recall(question.text, limit=_RANKING_LIMIT)
        seconds = time.perf_counter() - start
        sessions = [turn.session for session in self.case.sessions for turn in session]
        places = distinct(seq - 1 for item in recollections for seq in item.seqs)
        return RankRow(
            method=self.backend,
            case=self.case.id,
            item=question.id,
            category=question.category,
            answerable=question.answerable,
            turn=Scores.of(places, question.turns),
            session=Scores.of(distinct(sessions[place] for place in places), question.sessions),
            seconds=seconds,
            calls=self.counted.calls - calls,
        )

    def _judge(self, memory: Memory, question: Question) -> JudgeRow:
        """Recall with the settings as given, record whether it abstained, and let the model answer if that is wanted of this backend."""
        reply = None
        answered = self.plan.answers and self.backend in self.plan.backends
        abstained = not memory.recall(question.text, limit=_ABSTENTION_LIMIT)
        if answered and question.answerable and question.answers:
            reply = self._answer(memory, question.text)
        return JudgeRow(
            method=self.backend,
            case=self.case.id,
            item=question.id,
            category=question.category,
            answerable=question.answerable,
            abstained=abstained,
            reply=reply,
            f1=None if reply is None else token_f1(reply, question.answers),
        )

    def _answer(self, memory: Memory, text: str) -> str:
        """Return the chat model's reply. No turn is stored; a provider gets the prompt over the network."""
        sampling = Sampling(max_tokens=_REPLY_TOKENS, seed=self.plan.seed)
        settings = Settings(channel=self.plan.channel, limit=_ABSTENTION_LIMIT, sampling=sampling)
        model: ChatModel = self.models.chat(self.plan.model)
        return collect(list(Conversation(memory, model, "benchmark", settings).probe(text))).text

    def _measure_size(self, home: Home) -> None:
        """Record the size of the stored state."""
        if not self._has("size", "state"):
            folders = [
                home.backend_folder(self.case.id, name) for name in self.backend.split(registry.SEPARATOR)
            ]
            files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
            size = sum(path.stat().st_size for path in files)
            turns = sum(map(len, self.case.sessions))
            self.run.add(
                SizeRow(method=self.backend, case=self.case.id, item="state", bytes=size, turns=turns)
            )

    def _has(self, kind: str, item: str) -> bool:
        return self.run.has(kind, self.backend, self.case.id, item)
