"""One conversation: journal, memory and model, as a stream of events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import copy_context
from dataclasses import dataclass, field
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
from memagent.agent.engine.prompt import SYSTEM, SYSTEM_IN_MIND, Budget, Prompt, assemble
from memagent.agent.journal.records import check_name, check_text
from memagent.agent.memory import Attached, Memory
from memagent.agent.models.chat import ChatModel, Sampling
from memagent.backends.errors import InputError, SettingError
from memagent.backends.protocol import LocalModel
from memagent.backends.records import Recollection, Turn, WriteResult

Channel = Literal["auto", "text", "model", "both"]
_RECENT_TURNS = 64


@dataclass(frozen=True)
class Settings:
    """How a conversation is held.

    Attributes:
        channel: how memory reaches the model. ``auto`` is ``model`` where backend and model can, else ``text``.
        limit: most recollections asked for.
        budget: how the model's window is shared.
        sampling: how replies are drawn.
        system: the system prompt; by default one that fits the channel.
    """

    channel: Channel = "auto"
    limit: int = 5
    budget: Budget = field(default_factory=Budget)
    sampling: Sampling = field(default_factory=Sampling)
    system: str | None = None


class Conversation:
    """A user's conversation in one session.

    Args:
        memory: the user's memory; the conversation does not close it.
        model: any chat model.
        session: its name; new or continued.

    Raises:
        SettingError: the channel asked for is not there.
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
        """Ask the reply in progress to end. Safe from a signal handler or another thread."""
        self._stop.set()

    def send(self, text: str) -> Iterator[Event]:
        """Say something and yield what happens until the reply is complete.

        The message is in the journal before the model is asked, and also if memory fails, so nothing typed is lost.
        The reply is journalled as far as it came, also when stopped or abandoned. The memory is held only while it
        recalls and stores, so others may use it during a reply.

        Raises:
            InputError: the message is empty or does not fit the model's window; nothing was stored.
            SettingError: the reply asked for does not fit the window; nothing was stored.
            MemagentError: memory, journal or model failed.
        """
        check_text(text)
        self._stop.clear()
        began = time.monotonic()
        try:
            recalled, prompt = self._recall(text)
        except (InputError, SettingError):  # said to have stored nothing
            raise
        except Exception:  # whatever failed, what was typed is kept
            self.memory.journal.append(self.session, "user", text)
            raise
        asked = self.memory.journal.append(self.session, "user", text)
        yield TurnBegan(asked)
        reply = _Reply(began, recalled)
        try:
            yield from self._answer(text, prompt, reply)
        finally:
            answered, results = self._store(asked, prompt, reply)
        yield remembered(asked, results)
        if answered is not None:
            yield remembered(answered, results)
        yield self._ended(prompt, reply)

    def probe(self, text: str) -> Iterator[Event]:
        """Answer as ``send`` would, and leave no trace: neither message nor reply is journalled or remembered.

        Yields Recalled, Tokens and TurnEnded, and raises what ``send`` raises.
        """
        check_text(text)
        self._stop.clear()
        began = time.monotonic()
        recalled, prompt = self._recall(text)
        reply = _Reply(began, recalled)
        yield from self._answer(text, prompt, reply)
        yield self._ended(prompt, reply)

    def _assemble(self, text: str, found: Sequence[Recollection], recent: Sequence[Turn]) -> Prompt:
        settings = self.settings
        system = settings.system or (SYSTEM_IN_MIND if self.channel == "model" else SYSTEM)
        return assemble(
            self.model, text, found, recent, settings.budget, settings.sampling.max_tokens, system
        )

    def _choose_channel(self, wanted: Channel) -> Channel:
        local = hasattr(self.model, "tokenizer")
        able = self.memory.has_model_channel and local
        if wanted == "auto":
            return "model" if able else "text"
        if wanted != "text" and not self.memory.has_model_channel:
            raise SettingError(f"The backend {self.memory.name} has no model channel; use --channel text.")
        if wanted != "text" and not local:
            raise SettingError(
                f"The model {self.model.name} is not a local model, so memory reaches it by --channel text only."
            )
        return wanted

    def _recall(self, text: str) -> tuple[Recalled, Prompt]:
        """Ask memory before the message itself is in it; leave out what the prompt shows anyway."""
        said = self.memory.journal.recent(self.session, _RECENT_TURNS)
        recent = [turn for turn in said if turn.role in ("user", "assistant")]
        in_sight = {turn.seq for turn in self._assemble(text, (), recent).recent}
        began = time.monotonic()
        found: list[Recollection] = []
        if self.channel != "model":
            wide = self.memory.recall(text, limit=self.settings.limit + len(in_sight))
            found = [item for item in wide if not in_sight.issuperset(item.seqs)][: self.settings.limit]
        else:
            self.memory.catch_up()
        seconds = time.monotonic() - began
        prompt = self._assemble(text, found, recent)
        return Recalled(tuple(found), prompt.recollections, seconds), prompt

    def _answer(self, text: str, prompt: Prompt, reply: _Reply) -> Iterator[Event]:
        # What is attached for this reply stays in a context of its own: other replies on the same model do not see it.
        context, attached = copy_context(), ExitStack()
        try:
            if self.channel != "text":
                began = time.monotonic()
                memory = context.run(attached.enter_context, self._attached(text, prompt))
                reply.attend(memory, time.monotonic() - began)
            self.last_recalled = reply.recalled
            yield reply.recalled
            pieces = self.model.stream(prompt.messages, self.settings.sampling)
            while (piece := context.run(next, pieces, None)) is not None:
                reply.add(piece)
                yield Token(piece)
                if self._stop.is_set():
                    break
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        finally:
            context.run(attached.close)
        reply.complete = not self._stop.is_set()

    def _attached(self, text: str, prompt: Prompt) -> AbstractContextManager[Attached]:
        in_sight = {turn.seq for turn in prompt.recent}
        in_sight |= {seq for item in prompt.recollections for seq in item.seqs}
        return self.memory.attached(cast(LocalModel, self.model), text, exclude=in_sight)

    def _store(
        self, asked: Turn, prompt: Prompt, reply: _Reply
    ) -> tuple[Turn | None, Mapping[int, WriteResult]]:
        """Journal the reply with what it saw, and let memory follow; return the reply and what became of both turns."""
        answered = None
        text = _storable(reply.text)
        if text:
            shown = reply.attended | {seq for item in reply.recalled.shown for seq in item.seqs}
            in_view = sorted({asked.seq, *(turn.seq for turn in prompt.recent), *shown})
            derived = bool(shown) or self.channel != "text" or any(turn.derived for turn in prompt.recent)
            answered = self.memory.journal.append_reply(self.session, text, in_view, derived=derived)
        return answered, self.memory.catch_up()

    def _ended(self, prompt: Prompt, reply: _Reply) -> TurnEnded:
        tokens = self.model.count_text(reply.text)
        usage = Usage(prompt.tokens, prompt.recollection_tokens, tokens, self.model.window)
        now = time.monotonic()
        seconds = Seconds(reply.recalled.seconds, (reply.first or now) - reply.began, now - reply.began)
        return TurnEnded(reply.text.strip(), not reply.complete, usage, seconds)


def remembered(turn: Turn, results: Mapping[int, WriteResult]) -> Remembered:
    """Return the event of a turn that is in the journal and that memory has followed."""
    if turn.derived:
        why = "It was written with recollections in view, so it stays in the journal only."
        return Remembered(turn, False, why)
    return Remembered(turn, True, "It was handed to memory.", results.get(turn.seq))


def _storable(text: str) -> str:
    """A reply as a journal can keep it: a model may emit characters that no text file holds."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode().strip()


class _Reply:
    """The reply as far as it has come."""

    def __init__(self, began: float, recalled: Recalled) -> None:
        self.began = began
        self.recalled = recalled
        self.first: float | None = None
        self.attended: frozenset[int] = frozenset()
        self.text = ""
        self.complete = False

    def attend(self, attached: Attached, seconds: float) -> None:
        """Note what reaches the model inside its attention, besides what stands in the prompt."""
        self.attended = attached.seqs
        inside, before = attached.recollections, self.recalled
        self.recalled = Recalled(before.found + inside, before.shown + inside, before.seconds + seconds)

    def add(self, piece: str) -> None:
        self.first = self.first or time.monotonic()
        self.text += piece
