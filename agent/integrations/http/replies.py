"""Which model id is which memory, and what answers a request: a conversation with a memory, or the model alone."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from memagent.agent.engine.conversation import Settings, storable_reply
from memagent.agent.engine.events import Event, Seconds, Token, TurnEnded, Usage
from memagent.agent.engine.given_history import GivenConversation
from memagent.agent.engine.prompt import NOTES, Budget
from memagent.agent.engine.stops import until_stop
from memagent.agent.engine.workers import Exchange, Workers
from memagent.agent.integrations.http.errors import ApiError
from memagent.agent.integrations.http.limits import Limits
from memagent.agent.journal.records import check_text
from memagent.agent.memory.pool import MemoryPool
from memagent.agent.models.chat import ChatModel, Message, Sampling
from memagent.agent.models.names import PROVIDER, existing_path
from memagent.backends import registry

NO_MEMORY = "none"
"""The model id that does not remember: for the titles and tags that clients ask a model for."""
_RECENT_TOKENS = 8192
"""Most tokens of a client's history in a prompt: half of what a local model keeps the keys and values of."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a client sends to be answered.

    Attributes:
        history: of the user and the assistant, before the message.
        message: the last message, by the user.
        system: the client's system prompt; empty: none.
    """

    history: tuple[Message, ...]
    message: str
    system: str


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a client wants a reply to be generated; None: as the server does.

    Attributes:
        max_tokens: the longest reply.
        temperature: as in ``Sampling``.
        seed: as in ``Sampling``; None: another one for each reply.
        stop: texts that end it.
    """

    max_tokens: int | None
    temperature: float | None
    seed: int | None
    stop: tuple[str, ...]


class Pools:
    """The open memories of all backends of a server, over one set of models.

    Args:
        open_pool: returns the pool of a backend; all pools share their models.
        backend: the backend that is opened first.
    """

    def __init__(self, open_pool: Callable[[str], MemoryPool], backend: str) -> None:
        self._open_pool = open_pool
        self._guard = threading.Lock()
        self._pools = {backend: open_pool(backend)}
        self.default = self._pools[backend]

    def of(self, backend: str) -> MemoryPool:
        """Return the pool of a backend; the first call makes it.

        Args:
            backend: its name.

        Raises:
            SettingError: a lasting setting of the backend does not fit.
        """
        with self._guard:
            if backend not in self._pools:
                self._pools[backend] = self._open_pool(backend)
            return self._pools[backend]

    def close(self) -> None:
        """Close all memories.

        Raises:
            MemagentError: see ``MemoryPool.close``; all others are closed.
        """
        with self._guard, ExitStack() as stack:
            for pool in self._pools.values():
                stack.callback(pool.close)


class Replies:
    """Answers messages, users in turn.

    Args:
        pools: the memories; ``close`` closes them.
        backend: the backend whose id stands first.
        limits: of the server.
    """

    def __init__(self, pools: Pools, backend: str, limits: Limits) -> None:
        self._pools = pools
        self._limits = limits
        self._workers = Workers(pools.default, pools.default.model, Settings())
        self.model_ids = _model_ids(backend, pools.default.model)

    def answer(
        self, user: str, secret: bytes, session: str, model_id: str, prompt: Prompt, wishes: Wishes
    ) -> AsyncIterator[Event]:
        """Answer a message and yield the events, when it is the user's turn; see ``Workers.converse``.

        Args:
            user: whose memory it is.
            secret: as for ``turn_ids``.
            session: name of the session.
            model_id: one of ``model_ids``.
            prompt: what the client sends.
            wishes: how the reply is generated.

        Raises:
            MemagentError: see ``GivenConversation.send``.
            ApiError: the messages do not fit the model's window.
        """
        if model_id == NO_MEMORY:
            begin = partial(self._without_memory, prompt, wishes)
        else:
            begin = partial(self._with_memory, model_id, user, secret, session, prompt, wishes)
        return self._workers.converse(user, prompt.message, begin)

    def max_tokens(self, window: int, wishes: Wishes) -> int:
        """Return the length of the longest reply, in tokens: at most half of the model's window."""
        tokens = min(wishes.max_tokens or self._limits.default_reply_tokens, self._limits.reply_tokens)
        return max(1, min(tokens, window // 2))

    async def close(self) -> None:
        """Refuse what waits, wait for replies in progress, and close the memories."""
        await self._workers.close()
        self._pools.close()

    @contextmanager
    def _with_memory(
        self,
        backend: str,
        user: str,
        secret: bytes,
        session: str,
        prompt: Prompt,
        wishes: Wishes,
        model: ChatModel,
    ) -> Iterator[Exchange]:
        settings = Settings(
            budget=Budget(recent=_RECENT_TOKENS),
            sampling=self._sampling(model, wishes),
            system=prompt.system or None,
            stop=wishes.stop,
        )
        with self._pools.of(backend).memory(user) as memory:
            conversation = GivenConversation(
                memory, model, session, settings, history=prompt.history, secret=secret
            )
            if prompt.system and (conversation.channel != "model" or memory.pinned()):
                conversation.settings = replace(settings, system=f"{prompt.system}\n\n{NOTES}")
            yield conversation

    @contextmanager
    def _without_memory(self, prompt: Prompt, wishes: Wishes, model: ChatModel) -> Iterator[Exchange]:
        system = [Message("system", prompt.system)] if prompt.system else []
        yield PlainExchange(model, [*system, *prompt.history], self._sampling(model, wishes), wishes.stop)

    def _sampling(self, model: ChatModel, wishes: Wishes) -> Sampling:
        seed = secrets.randbelow(2**31) if wishes.seed is None else wishes.seed
        return Sampling(self.max_tokens(model.window, wishes), wishes.temperature or 0.0, seed)


class PlainExchange:
    """Answers a message with the model alone. Nothing is recalled, and nothing is stored.

    Args:
        model: any chat model.
        history: what stands before the message.
        sampling: how the reply is generated.
        stop: texts that end it.
    """

    def __init__(
        self, model: ChatModel, history: Sequence[Message], sampling: Sampling, stop: Sequence[str]
    ) -> None:
        self._model = model
        self._history = history
        self._sampling = sampling
        self._stop_texts = stop
        self._stop = threading.Event()

    def send(self, text: str) -> Iterator[Event]:
        """Send the message and yield the reply's tokens and its end.

        Args:
            text: the message.

        Raises:
            InputError: the message is empty.
            ApiError: the messages do not fit the model's window.
        """
        check_text(text)
        began = time.monotonic()
        first_token = 0.0
        messages = [*self._history, Message("user", text)]
        tokens, room = self._model.count(messages), self._model.window - self._sampling.max_tokens
        if tokens > room:
            raise too_long(f"The messages take {tokens:,} tokens; {self._model.name} has room for {room:,}.")
        reply = ""
        stream = self._model.stream(messages, self._sampling)
        for token in until_stop(stream, self._stop_texts) if self._stop_texts else stream:
            first_token = first_token or time.monotonic() - began
            reply += token
            yield Token(token)
            if self._stop.is_set():
                break
        usage = Usage(tokens, 0, self._model.count_text(reply), self._model.window)
        seconds = Seconds(0.0, first_token, time.monotonic() - began)
        yield TurnEnded(storable_reply(reply), self._stop.is_set(), usage, seconds)

    def stop(self) -> None:
        """End the reply after its next token."""
        self._stop.set()


def too_long(message: str) -> ApiError:
    """Return the error of messages that do not fit the model's window.

    Args:
        message: how long they are, and how long they may be.
    """
    return ApiError(400, message, code="context_length_exceeded", param="messages")


def _model_ids(backend: str, model: str) -> list[str]:
    """Return the ids of the memories that the model can have, the given one first, and the id that does not remember."""
    is_local = PROVIDER.fullmatch(model) is None or existing_path(model) is not None
    names = [name for name in registry.names() if is_local or "local_model" not in registry.needs(name)]
    return [*dict.fromkeys([backend, *names, NO_MEMORY])]
