"""Hold a conversation with journal, memory and model; every turn is a stream of events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, cast

from memagent.agent.engine.events import (
    Event,
    Recalled,
    Remembered,
    Seconds,
    Token,
    TurnBegan,
    TurnEnded,
    Usage,
)
from memagent.agent.engine.history import History
from memagent.agent.engine.pending_reply import PendingReply
from memagent.agent.engine.prompt import SYSTEM, SYSTEM_MODEL_CHANNEL, Budget, Prompt, assemble
from memagent.agent.engine.stops import until_stop
from memagent.agent.journal.records import check_name, check_text
from memagent.agent.memory import Memory, WriteResults
from memagent.agent.memory.prefix_scope import prefix_scope
from memagent.agent.models.chat import ChatModel, Sampling
from memagent.agent.models.prefix_cache import PREFIX_SCOPE
from memagent.backends.errors import InputError, SettingError
from memagent.backends.protocol import LocalModel
from memagent.backends.records import Recollection, Turn

Channel = Literal["auto", "text", "model", "both"]
_RECENT_BLOCK = 64
"""The history in a prompt begins at most two blocks of so many turns back."""


@dataclass(frozen=True)
class Settings:
    """Settings of a conversation.

    Attributes:
        channel: how recollections reach the model: in the prompt (``text``), inside a local model (``model``), or ``both``.
            ``auto`` is ``model`` if all backends of the memory and the model can, ``both`` if only some of the backends can,
            else ``text``.
        limit: most recollections.
        budget: limits for the parts of the prompt.
        sampling: how the model generates replies.
        system: the system prompt; None: the one of the channel.
        stop: texts that end a reply; they are not part of it.
        clock: returns the user's time, with time zone; the system's by default.
    """

    channel: Channel = "auto"
    limit: int = 5
    budget: Budget = field(default_factory=Budget)
    sampling: Sampling = field(default_factory=Sampling)
    system: str | None = None
    stop: tuple[str, ...] = ()
    clock: Callable[[], datetime] = lambda: datetime.now().astimezone()


class Conversation:
    """A user's conversation in one session.

    Args:
        memory: the user's memory; the conversation does not close it.
        model: any chat model.
        session: name of the session; it begins or continues.
        settings: by default, ``Settings()``.

    Raises:
        InputError: the session's name cannot be stored.
        SettingError: backend or model cannot use the channel of the settings.
    """

    def __init__(
        self, memory: Memory, model: ChatModel, session: str, settings: Settings | None = None
    ) -> None:
        check_name("session name", session)
        self.memory = memory
        self.model = model
        self.session = session
        self.settings = settings or Settings()
        self.channel = self._choose_channel(self.settings.channel)
        self.last_recalled: Recalled | None = None
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the reply in progress after its next token. A signal handler or another thread may call it."""
        self._stop.set()

    def send(self, text: str) -> Iterator[Event]:
        """Send a message and yield the events until the reply has ended.

        The journal stores the message before the model generates, and also if memory fails. It stores the reply as far
        as it was generated, also if the reply is stopped or the caller stops iterating. The memory is locked only while
        it recalls and stores, so others may use it during a reply.

        Args:
            text: the message.

        Raises:
            InputError: the message is empty or does not fit the model's window; nothing was stored.
            SettingError: the longest reply does not fit the window, or the memories cannot share the model channel; nothing
                was stored.
            MemagentError: memory, journal or model failed.
        """
        check_text(text)
        self._stop.clear()
        with closing(PendingReply()) as reply:
            try:
                prompt = self._prepare(text, reply)
            except (InputError, SettingError):  # documented as storing nothing
                raise
            except BaseException:  # the message is stored whatever fails, also if the user interrupts
                self._store_message(text)
                raise
            message = self._store_message(text)
            yield TurnBegan(message)
            try:
                yield from self._generate(prompt, reply)
            finally:
                reply_turn, results = self._store(message, prompt, reply)
            yield remembered(message, results)
            if reply_turn is not None:
                yield remembered(reply_turn, results)
            yield self._ended(prompt, reply)

    def probe(self, text: str) -> Iterator[Event]:
        """Answer like ``send``, but add no turn to the journal.

        Memory still reads new turns first, and may store its state.
        It yields ``Recalled``, ``Token`` and ``TurnEnded``.

        Args:
            text: the message.

        Raises:
            MemagentError: as ``send``.
        """
        check_text(text)
        self._stop.clear()
        with closing(PendingReply()) as reply:
            prompt = self._prepare(text, reply)
            yield from self._generate(prompt, reply)
            yield self._ended(prompt, reply)

    def _history(self, text: str) -> History:
        """Return what was said in this session before a message that is about to be answered."""
        turns = self.memory.journal.recent_blocks(_RECENT_BLOCK, self.session)
        return History([turn for turn in turns if turn.role in ("user", "assistant")])

    def _store_message(self, text: str) -> Turn:
        """Store the user's message in the journal."""
        return self.memory.journal.append(self.session, "user", text)

    def _store_reply(
        self, text: str, in_view: Sequence[int], recalled: Sequence[int], *, derived: bool
    ) -> Turn | None:
        """Store a reply in the journal; see ``Journal.append_reply``."""
        return self.memory.journal.append_reply(
            self.session, text, in_view, derived=derived, recalled=recalled
        )

    def _assemble(
        self,
        text: str,
        recollections: Sequence[Recollection],
        recent: Sequence[Turn],
        pinned: Sequence[Recollection],
    ) -> Prompt:
        """Assemble the prompt of a message within the limits of the settings and the model's window."""
        settings = self.settings
        without_notes = self.channel == "model" and not pinned
        system = settings.system or (SYSTEM_MODEL_CHANNEL if without_notes else SYSTEM)
        reply_tokens, now = settings.sampling.max_tokens, settings.clock()
        return assemble(
            self.model, text, recollections, recent, settings.budget, reply_tokens, now, system, pinned
        )

    def _choose_channel(self, channel: Channel) -> Channel:
        """Return the channel that is used, for ``auto`` by what backends and model can do.

        Raises:
            SettingError: backend or model cannot use the channel.
        """
        local = hasattr(self.model, "tokenizer")
        if channel == "auto":
            if not (self.memory.has_model_channel and local):
                return "text"
            return "model" if self.memory.all_have_model_channel else "both"
        if channel != "text" and not self.memory.has_model_channel:
            raise SettingError(f"The backend {self.memory.name} has no model channel; use --channel text.")
        if channel != "text" and not local:
            raise SettingError(
                f"The model {self.model.name} is not a local model, so memory reaches it by --channel text only."
            )
        return channel

    def _prepare(self, text: str, reply: PendingReply) -> Prompt:
        """Recall, assemble the prompt, and open the model channel until the reply is closed."""
        reply.context.run(PREFIX_SCOPE.set, prefix_scope(self.memory.journal))
        history = self._history(text)
        recalled, prompt = self._recall(text, history)
        reply.recalled = recalled
        if self.channel != "text":
            prompt_seqs = history.excluded_seqs.union(turn.seq for turn in prompt.recent)
            prompt_seqs |= {seq for item in prompt.recollections for seq in item.seqs}
            reply.attach(self.memory.attached(cast(LocalModel, self.model), text, exclude=prompt_seqs))
        return prompt

    def _recall(self, text: str, history: History) -> tuple[Recalled, Prompt]:
        """Recall before memory reads the message itself, and omit turns that are in the prompt anyway.

        What is pinned comes first, in every channel, beyond the limit, and though a recent turn says the same.
        """
        pinned = self.memory.pinned()
        recent = history.turns
        prompt_seqs = {turn.seq for turn in self._assemble(text, (), recent, pinned).recent}
        began = time.monotonic()
        recollections: list[Recollection] = []
        if self.channel != "model":
            limit = self.settings.limit
            given_seqs = prompt_seqs.union(history.excluded_seqs, *(item.seqs for item in pinned))
            candidates = self.memory.recall(text, limit=limit + len(given_seqs) + len(history.excluded_texts))
            recollections = [
                item
                for item in candidates
                if given_seqs.isdisjoint(item.seqs) and item.text.strip() not in history.excluded_texts
            ][:limit]
            pinned = [_with_mark(item, candidates) for item in pinned]
        else:
            self.memory.catch_up()
        seconds = time.monotonic() - began
        prompt = self._assemble(text, recollections, recent, pinned)
        return Recalled((*pinned, *recollections), prompt.recollections, seconds), prompt

    def _generate(self, prompt: Prompt, reply: PendingReply) -> Iterator[Event]:
        """Yield what was recalled, then the reply's tokens until it ends or is stopped; close the model channel."""
        try:
            self.last_recalled = reply.recalled
            yield reply.recalled
            stream = self.model.stream(prompt.messages, self.settings.sampling)
            tokens = until_stop(stream, self.settings.stop) if self.settings.stop else stream
            while (token := reply.context.run(next, tokens, None)) is not None:
                reply.add(token)
                yield Token(token)
                if self._stop.is_set():
                    break
            close = getattr(stream, "close", None)
            if close is not None:
                close()
        finally:
            reply.close()  # before memory reads the turns, perhaps with the same model
        reply.complete = not self._stop.is_set()

    def _store(self, message: Turn, prompt: Prompt, reply: PendingReply) -> tuple[Turn | None, WriteResults]:
        """Store the reply with the turns in its view, and let memory read both turns.

        Returns:
            The reply unless it is empty, and what each backend did with the turns.
        """
        reply_turn = None
        text = storable_reply(reply.text)
        if text:
            recalled = {seq for item in reply.recalled.in_view for seq in item.seqs}
            from_memory = reply.attached_seqs | recalled
            recent = (turn.seq for turn in prompt.recent if turn.seq)
            in_view = sorted({message.seq, *recent, *from_memory})
            derived = (
                bool(from_memory) or self.channel != "text" or any(turn.derived for turn in prompt.recent)
            )
            reply_turn = self._store_reply(text, in_view, sorted(recalled), derived=derived)
        return reply_turn, self.memory.catch_up()

    def _ended(self, prompt: Prompt, reply: PendingReply) -> TurnEnded:
        tokens = self.model.count_text(reply.text)
        usage = Usage(prompt.tokens, prompt.recollection_tokens, tokens, self.model.window)
        now = time.monotonic()
        seconds = Seconds(
            reply.recalled.seconds, (reply.first_token_at or now) - reply.began, now - reply.began
        )
        return TurnEnded(reply.text.strip(), not reply.complete, usage, seconds)


def remembered(turn: Turn, results: WriteResults) -> Remembered:
    """Return the event of a turn that the journal has stored and memory has read.

    Args:
        turn: the turn.
        results: what the backends did with the turns that they read last.
    """
    if turn.derived:
        why = "Memory was in its prompt or attached to the model, so it stays in the journal only."
        return Remembered(turn, journal_only=True, why=why)
    of_turn = {name: by_seq[turn.seq] for name, by_seq in results.items() if turn.seq in by_seq}
    return Remembered(turn, journal_only=False, why="Memory has read it.", results=of_turn)


def _with_mark(pin: Recollection, recalled: Sequence[Recollection]) -> Recollection:
    """Return a pinned item marked as superseded if what was recalled says so."""
    same = next((item for item in recalled if pin.seqs[0] in item.seqs), pin)
    return replace(pin, superseded_by=same.superseded_by, superseded_at=same.superseded_at)


def storable_reply(text: str) -> str:
    """Return a reply without characters that the journal refuses; a model may generate NUL or half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode().strip()
