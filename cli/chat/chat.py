"""The conversation of a terminal chat, and what it can be exchanged for: another session or another memory."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from memagent.backends.errors import MemagentError, StorageError
from memagent.cli.chat.views import View, show_nothing
from memagent.cli.opening import fetch_models, load_model, open_memory

if TYPE_CHECKING:
    from memagent.agent.engine.conversation import Conversation, Settings
    from memagent.agent.journal import Journal
    from memagent.agent.memory import Memory
    from memagent.agent.models.chat import ChatModel
    from memagent.cli.rendering.console import Console
    from memagent.cli.rendering.frontend import Frontend


@dataclass(frozen=True)
class ChatOptions:
    """What the command line says about a chat.

    Attributes:
        user: whose memory it is.
        backend: name of the memory backend, or several joined by ``+``.
        settings: ``key=value`` pairs of the backend.
        model: the chat model's name; None: as the settings say.
        model_is_default: whether neither the command line nor the settings name a model.
        channel: as in ``Settings``.
        session: name of the session; None: the latest, or a new one.
        continue_latest: whether the latest session is continued if none is named.
        max_tokens: the longest reply, in tokens.
        temperature: as in ``Sampling``.
        seed: of the memory, and of sampling.
        command: the command that began this chat, without the session; it is printed at the end, to continue the chat.
    """

    user: str
    backend: str
    settings: tuple[str, ...] = ()
    model: str | None = None
    model_is_default: bool = False
    channel: str = "auto"
    session: str | None = None
    continue_latest: bool = False
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    command: tuple[str, ...] = ("memagent", "chat")


@dataclass(frozen=True)
class Interface:
    """What a slash command needs of the interface that it runs in.

    Attributes:
        console: prints results.
        ask: asks the person a yes-or-no question; True is yes.
        frontend: reports long work.
        show: shows a view on a screen of its own; False: there is none, so the command prints it.
    """

    console: Console
    ask: Callable[[str], bool]
    frontend: Frontend
    show: Callable[[View], bool] = show_nothing

    @property
    def is_full_screen(self) -> bool:
        """Whether there are screens and keys; otherwise lines only."""
        return self.show is not show_nothing


class Chat:
    """An open memory, a loaded model, and the conversation that uses both. Any thread may call its methods.

    Args:
        conversation: the first conversation; ``close`` closes its memory.
        options: what it was opened with.
    """

    def __init__(self, conversation: Conversation, options: ChatOptions) -> None:
        self.conversation = conversation
        self.options = options
        self._beside: Conversation | None = None

    @classmethod
    def open(cls, options: ChatOptions, frontend: Frontend) -> Chat:
        """Fetch the models that are missing, open the memory and load the model.

        Args:
            options: what the command line says.
            frontend: reports what is fetched, read and loaded.

        Raises:
            MemagentError: a model cannot be fetched or loaded, or the memory cannot be opened.
        """
        fetch_models(model=options.model, chat=True, frontend=frontend)
        with ExitStack() as stack:
            memory = stack.enter_context(_open_memory(options, frontend))
            model = load_model(options.model, frontend)
            latest = latest_session(memory.journal) if options.continue_latest else None
            chat = cls(
                _conversation(memory, model, options.session or latest or new_session(), options), options
            )
            stack.pop_all()
            return chat

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def memory(self) -> Memory:
        """The memory that is in use."""
        return self.conversation.memory

    @property
    def journal(self) -> Journal:
        """The user's journal."""
        return self.conversation.memory.journal

    @property
    def now(self) -> datetime:
        """The user's time, as the conversation's settings tell it."""
        return self.conversation.settings.clock()

    @property
    def next_command(self) -> str:
        """The command line that continues this session later."""
        return shlex.join([*self.options.command, "--session", self.conversation.session])

    def use_session(self, name: str) -> None:
        """Continue another session, or begin one.

        Raises:
            InputError: the name cannot be stored.
        """
        self.conversation = _conversation(self.memory, self.conversation.model, name, self.options)

    def use_backend(self, backend: str, frontend: Frontend) -> None:
        """Read the journal into another memory and use it from now on. If that fails, the memory in use stays.

        Args:
            backend: name of the other backend, or several joined by ``+``.
            frontend: reports how far the journal is read.

        Raises:
            MemagentError: the other memory cannot be opened or read, or the model cannot use the channel with it.
        """
        options = with_backend(self.options, backend)
        fetch_models(backend, model=options.model, frontend=frontend)
        if _parts(backend).isdisjoint(_parts(self.memory.name)):
            other, previous = self._opened(options, frontend), self.memory
        else:  # both need the lock of a part
            previous = self.memory
            previous.close()
            try:
                other = self._opened(options, frontend)
            except BaseException:
                self.conversation = self._opened_again(frontend)
                raise
        self.conversation, self.options = other, options
        previous.close()

    def _opened_again(self, frontend: Frontend) -> Conversation:
        """Open the memory in use once more, after it was closed for another one."""
        try:
            return self._opened(self.options, frontend)
        except MemagentError as error:
            raise StorageError(
                f"The other memory could not be opened, and {self.memory.name} cannot be opened again: {error} "
                "Leave the chat and continue it later; all turns are stored."
            ) from error

    def _opened(self, options: ChatOptions, frontend: Frontend) -> Conversation:
        """Open a memory, and return the conversation in use with it."""
        with ExitStack() as stack:
            memory = stack.enter_context(_open_memory(options, frontend))
            other = _conversation(memory, self.conversation.model, self.conversation.session, options)
            stack.pop_all()
        return other

    @contextmanager
    def beside(self, backend: str, frontend: Frontend) -> Iterator[Conversation]:
        """Open another memory beside the one in use, for reading, with a conversation that can be probed.

        Args:
            backend: name of the other backend.
            frontend: reports how far the journal is read.

        Raises:
            MemagentError: see ``use_backend``.
        """
        options = with_backend(self.options, backend)
        fetch_models(backend, model=options.model, frontend=frontend)
        with _open_memory(options, frontend, read_only=True) as memory:
            self._beside = _conversation(memory, self.conversation.model, self.conversation.session, options)
            try:
                yield self._beside
            finally:
                self._beside = None

    def stop(self) -> None:
        """Stop the replies in progress. Any thread may call it."""
        for conversation in (self.conversation, self._beside):
            if conversation is not None:
                conversation.stop()

    @property
    def is_comparing(self) -> bool:
        """Whether another memory is open beside the one in use."""
        return self._beside is not None

    def close(self) -> None:
        """Stop the reply in progress and close the memory."""
        self.stop()
        self.memory.close()


def new_session() -> str:
    """Return a name for a new session: the time and four random digits."""
    return f"{datetime.now():%Y-%m-%d-%H%M}-{uuid4().hex[:4]}"


def latest_session(journal: Journal) -> str | None:
    """Return the session with the latest turn; None if there is no session."""
    sessions = journal.sessions()
    return sessions[-1].name if sessions else None


def _open_memory(options: ChatOptions, frontend: Frontend, *, read_only: bool = False) -> Memory:
    return open_memory(
        options.user,
        options.backend,
        [*options.settings],
        model=options.model,
        frontend=frontend,
        seed=options.seed,
        read_only=read_only,
    )


def _conversation(memory: Memory, model: ChatModel, session: str, options: ChatOptions) -> Conversation:
    from memagent.agent.engine.conversation import Conversation

    return Conversation(memory, model, session, _settings(options))


def _settings(options: ChatOptions) -> Settings:
    from memagent.agent.engine.conversation import Settings
    from memagent.agent.models.chat import Sampling

    sampling = Sampling(options.max_tokens, options.temperature, options.seed)
    return Settings(channel=options.channel, sampling=sampling)  # type: ignore[arg-type] # checked by the command line


def with_backend(options: ChatOptions, backend: str) -> ChatOptions:
    """Return options with another memory, without the settings of the one before; their command names it.

    Args:
        options: of the chat so far.
        backend: name of the other backend, or several joined by ``+``.
    """
    command = (*_without(options.command, "--backend", "--set"), "--backend", backend)
    return replace(options, backend=backend, settings=(), command=command)


def _parts(backend: str) -> frozenset[str]:
    """Return the names that are joined by ``+``."""
    from memagent.backends.registry import SEPARATOR

    return frozenset(backend.split(SEPARATOR))


def _without(command: Sequence[str], *options: str) -> list[str]:
    """Return a command line without some options and their values."""
    return [
        word
        for place, word in enumerate(command)
        if word not in options and (place == 0 or command[place - 1] not in options)
    ]
