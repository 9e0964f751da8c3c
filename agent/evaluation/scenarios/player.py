"""Playing the steps of one session of a scenario."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Self

from memagent.agent.engine.agent import collect
from memagent.agent.engine.conversation import Channel, Conversation, Settings
from memagent.agent.evaluation.scenarios.distractors import generate
from memagent.agent.evaluation.scenarios.judge import judge_recall, judge_reply
from memagent.agent.evaluation.scenarios.results import ProbeResult
from memagent.agent.evaluation.scenarios.schema import Ask, Distract, Do, Forget, Say, Step, Wait
from memagent.agent.home import Home
from memagent.agent.journal.records import NewTurn
from memagent.agent.memory import Memory, Notify
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.chat import ChatModel, Sampling
from memagent.agent.models.embedding import load_embedder
from memagent.agent.models.hub import Report, quiet
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.errors import InputError
from memagent.backends.protocol import Embedder, Progress, silent

_LOG = logging.getLogger("memagent")
_BETWEEN_TURNS = timedelta(minutes=1)
_BETWEEN_STEPS = timedelta(days=1)
_REPLY_TOKENS = 96


@dataclass(frozen=True)
class Options:
    """How scenarios are played.

    Attributes:
        model: the chat model's name; loaded only for expectations of a reply.
        channel: how memory reaches it.
        settings: the backend's.
        recall_only: ask no chat model; expectations of replies are not judged.
        seed: for everything random in a backend or a reply.
    """

    model: str = DEFAULT_MODEL
    channel: Channel = "auto"
    settings: Mapping[str, str] = field(default_factory=dict)
    recall_only: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Models:
    """Where models are kept, and the models, each loaded once and on first use."""

    folder: Path
    embedder: Callable[[], Embedder]
    chat: Callable[[str], ChatModel]

    @classmethod
    def shared(
        cls, folder: Path, embedder: str | None = None, *, notify: Notify = _LOG.info, report: Report = quiet
    ) -> Self:
        """The models that the environment and the options name.

        Args:
            embedder: the embedder's name; None: as the environment says.
        """
        return cls(
            folder,
            cache(lambda: load_embedder(folder, embedder, notify=notify, report=report)),
            cache(lambda name: load_chat_model(name, folder, notify=notify, report=report)),
        )


@dataclass(frozen=True)
class Player:
    """Plays sessions on one backend."""

    backend: str
    options: Options
    models: Models
    progress: Progress = silent

    def play(
        self, home: Home, user: str, clock: datetime, steps: Sequence[Step]
    ) -> tuple[datetime, list[ProbeResult]]:
        """Play the steps of one session: open the memory, act, close it.

        Args:
            user: whose memory, where the steps do not say; they must agree.
            clock: the scenario's time at the first step.

        Returns:
            the clock after the last step, and what was probed.

        Raises:
            MemagentError: a step cannot be played.
        """
        named = [step.user for step in steps if not isinstance(step, Wait) and step.user]
        probes: list[ProbeResult] = []
        with self._open(home, named[0] if named else user) as memory:
            try:
                for step in steps:
                    clock = self._act(memory, step, clock, probes)
            except OverflowError as error:
                raise InputError("The scenario's clock passes the year 9999.") from error
        return clock, probes

    def _act(self, memory: Memory, step: Step, clock: datetime, probes: list[ProbeResult]) -> datetime:
        """Play one step and return the clock of the next."""
        match step:
            case Wait():
                return clock + step.wait
            case Say():
                return _tell(memory, step, clock)
            case Distract():
                return _distract(memory, step, clock)
            case Forget():
                _forget(memory, step)
            case Do():
                _keep_house(memory, step)
            case Ask():
                probes.append(self._probe(memory, step))
        return clock

    def _open(self, home: Home, user: str) -> Memory:
        return Memory.open(
            home,
            user,
            self.backend,
            self.options.settings,
            make_embedder=self.models.embedder,
            make_model=lambda: as_local(self.models.chat(self.options.model)),
            seed=self.options.seed,
            progress=self.progress,
        )

    def _probe(self, memory: Memory, step: Ask) -> ProbeResult:
        expect = step.expect
        if expect.recall_seconds is not None:
            memory.recall(step.ask, limit=step.limit)  # loads what is loaded on first use
        began = time.monotonic()
        found = memory.recall(step.ask, limit=step.limit)
        recall_seconds = time.monotonic() - began
        failures = judge_recall(expect, found, recall_seconds)
        reply = reply_seconds = None
        if expect.reply is not None and not self.options.recall_only:
            reply, reply_seconds = self._answer(memory, step)
            failures += judge_reply(expect, reply, reply_seconds)
        return ProbeResult(
            user=memory.user,
            question=step.ask,
            recollections=tuple(found),
            reply=reply,
            recall_seconds=recall_seconds,
            reply_seconds=reply_seconds,
            failures=tuple(failures),
            needs_memory=expect.needs_memory,
            judged=reply is not None or expect.judges_recall,
        )

    def _answer(self, memory: Memory, step: Ask) -> tuple[str, float]:
        settings = Settings(
            channel=self.options.channel,
            limit=step.limit,
            sampling=Sampling(max_tokens=_REPLY_TOKENS, seed=self.options.seed),
        )
        model = self.models.chat(self.options.model)
        conversation = Conversation(memory, model, step.session or "a session of its own", settings)
        reply = collect(list(conversation.probe(step.ask)))
        return reply.text, reply.seconds.total


def _tell(memory: Memory, step: Say, clock: datetime) -> datetime:
    """Add a step's turns and return the clock of the next."""
    turns = [
        NewTurn(step.session, said.role, said.text, said.speaker, said.at or clock + place * _BETWEEN_TURNS)
        for place, said in enumerate(step.say)
    ]
    _remember(memory, turns)
    return clock + _BETWEEN_STEPS


def _distract(memory: Memory, step: Distract, clock: datetime) -> datetime:
    """Add generated sentences, session by session, and return the clock of the next step."""
    spec = step.distractors
    sentences = generate(spec.count, spec.seed, spec.kind)
    for number in range(spec.sessions):
        session = f"distractors {spec.seed}.{number + 1}"
        told = sentences[number :: spec.sessions]
        _remember(memory, [NewTurn(session, "user", sentence, created_at=clock) for sentence in told])
        clock += _BETWEEN_STEPS
    return clock


def _remember(memory: Memory, turns: Sequence[NewTurn]) -> None:
    memory.journal.extend(turns)
    memory.catch_up()


def _forget(memory: Memory, step: Forget) -> None:
    matching, session = step.forget.matching, step.forget.session
    turns = memory.journal.matching(matching) if matching else memory.journal.turns(session=session)
    seqs = [turn.seq for turn in turns]
    if not seqs:
        what = f"holds {matching!r}" if matching else f"is of the session {session!r}"
        raise InputError(f"No turn of {memory.user!r} {what}: there was nothing to forget.")
    memory.forget(seqs)


def _keep_house(memory: Memory, step: Do) -> None:
    if step.do == "consolidate":
        memory.consolidate()
    else:
        memory.rebuild()
