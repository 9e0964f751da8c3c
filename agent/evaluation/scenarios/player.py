"""Playing the steps of one session of a scenario."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from memagent.agent.engine.agent import collect
from memagent.agent.engine.conversation import Channel, Conversation, Settings
from memagent.agent.evaluation.scenarios.distractors import generate
from memagent.agent.evaluation.scenarios.judge import judge_recall, judge_reply
from memagent.agent.evaluation.scenarios.results import ProbeResult
from memagent.agent.evaluation.scenarios.schema import (
    AskStep,
    DistractorStep,
    ForgetStep,
    MaintenanceStep,
    SayStep,
    Step,
    WaitStep,
)
from memagent.agent.home import Home
from memagent.agent.journal.records import NewTurn
from memagent.agent.memory import Memory
from memagent.agent.memory.composition import open_memory
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.chat import Sampling
from memagent.agent.models.models import Models
from memagent.backends.errors import InputError
from memagent.backends.protocol import Progress, silent

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
class Player:
    """Plays the sessions of a scenario on one backend.

    Writes journal and stored states below the given home only. Loads the models that the backend needs, and the chat model
    for expectations of a reply; both may be fetched into the models folder.
    """

    backend: str
    options: Options
    models: Models
    progress: Progress = silent

    def play(
        self, home: Home, user: str, clock: datetime, steps: Sequence[Step]
    ) -> tuple[datetime, list[ProbeResult]]:
        """Play the steps of one session: open the memory, act, close it.

        Args:
            home: where the memory is.
            user: whose memory, where the steps do not say; they must agree.
            clock: the scenario's time at the first step.
            steps: what happens, in order.

        Returns:
            The clock after the last step, and the results of the probes.

        Raises:
            MemagentError: a step cannot be played.
        """
        users = [step.user for step in steps if not isinstance(step, WaitStep) and step.user]
        probes: list[ProbeResult] = []
        with self._open(home, users[0] if users else user) as memory:
            try:
                for step in steps:
                    clock = self._act(memory, step, clock, probes)
            except OverflowError as error:
                raise InputError("The scenario's clock passes the year 9999.") from error
        return clock, probes

    def _act(self, memory: Memory, step: Step, clock: datetime, probes: list[ProbeResult]) -> datetime:
        """Play one step and return the clock of the next."""
        match step:
            case WaitStep():
                return clock + step.wait
            case SayStep():
                return _say(memory, step, clock)
            case DistractorStep():
                return _add_distractors(memory, step, clock)
            case ForgetStep():
                _forget(memory, step)
            case MaintenanceStep():
                _maintain(memory, step)
            case AskStep():
                probes.append(self._probe(memory, step, clock))
        return clock

    def _open(self, home: Home, user: str) -> Memory:
        """Open a user's memory for one session. The models that it needs are fetched first, and loaded on first use."""
        return open_memory(
            home,
            self.models,
            user,
            self.backend,
            self.options.settings,
            model=self.options.model,
            seed=self.options.seed,
            progress=self.progress,
        )

    def _probe(self, memory: Memory, step: AskStep, clock: datetime) -> ProbeResult:
        """Recall for a question, let the chat model answer if a reply is expected, and judge both. No turn is stored."""
        expect = step.expect
        if expect.recall_seconds is not None:
            memory.recall(step.ask, limit=step.limit)  # loads what is loaded on first use
        start = time.monotonic()
        recollections = memory.recall(step.ask, limit=step.limit)
        recall_seconds = time.monotonic() - start
        failures = judge_recall(expect, recollections, recall_seconds)
        reply = reply_seconds = None
        if expect.reply is not None and not self.options.recall_only:
            reply, reply_seconds = self._answer(memory, step, clock)
            failures += judge_reply(expect, reply, reply_seconds)
        return ProbeResult(
            user=memory.user,
            question=step.ask,
            recollections=tuple(recollections),
            reply=reply,
            recall_seconds=recall_seconds,
            reply_seconds=reply_seconds,
            failures=tuple(failures),
            needs_memory=expect.needs_memory,
            judged=reply is not None or expect.judges_recall,
        )

    def _answer(self, memory: Memory, step: AskStep, clock: datetime) -> tuple[str, float]:
        """Return the chat model's reply and its seconds.

        Loads the model on first use; a provider gets the prompt over the network.
        """
        settings = Settings(
            channel=self.options.channel,
            limit=step.limit,
            sampling=Sampling(max_tokens=_REPLY_TOKENS, seed=self.options.seed),
            clock=lambda: clock,
        )
        model = self.models.chat(self.options.model)
        conversation = Conversation(memory, model, step.session or "a session of its own", settings)
        reply = collect(list(conversation.probe(step.ask)))
        return reply.text, reply.seconds.total


def _say(memory: Memory, step: SayStep, clock: datetime) -> datetime:
    """Add a step's turns and return the clock of the next."""
    turns = [
        NewTurn(step.session, turn.role, turn.text, turn.speaker, turn.at or clock + place * _BETWEEN_TURNS)
        for place, turn in enumerate(step.say)
    ]
    _remember(memory, turns)
    return clock + _BETWEEN_STEPS


def _add_distractors(memory: Memory, step: DistractorStep, clock: datetime) -> datetime:
    """Add generated sentences, session by session, and return the clock of the next step."""
    spec = step.distractors
    sentences = generate(spec.count, spec.seed, spec.kind)
    for number in range(spec.sessions):
        session = f"distractors {spec.seed}.{number + 1}"
        share = sentences[number :: spec.sessions]
        _remember(memory, [NewTurn(session, "user", sentence, created_at=clock) for sentence in share])
        clock += _BETWEEN_STEPS
    return clock


def _remember(memory: Memory, turns: Sequence[NewTurn]) -> None:
    """Add turns to the journal, and let the memory read them."""
    memory.journal.extend(turns)
    memory.catch_up()


def _forget(memory: Memory, step: ForgetStep) -> None:
    """Forget the turns that a step selects, everywhere.

    Raises:
        InputError: it selects none.
    """
    matching, session = step.forget.matching, step.forget.session
    turns = memory.journal.matching(matching) if matching else memory.journal.turns(session=session)
    seqs = [turn.seq for turn in turns]
    if not seqs:
        what = f"holds {matching!r}" if matching else f"is of the session {session!r}"
        raise InputError(f"No turn of {memory.user!r} {what}: there was nothing to forget.")
    memory.forget(seqs)


def _maintain(memory: Memory, step: MaintenanceStep) -> None:
    if step.do == "consolidate":
        memory.consolidate()
    else:
        memory.rebuild()
