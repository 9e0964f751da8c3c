"""The whole agent in one object, for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from memagent.agent.engine.conversation import Conversation, Settings, remembered
from memagent.agent.engine.events import Event, Recalled, Remembered, Seconds, TurnEnded, Usage
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.memory.forgetting import Forgotten
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.chat import ChatModel
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.records import Recollection


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with what it rests on and what it cost."""

    text: str
    recollections: tuple[Recollection, ...]
    usage: Usage
    seconds: Seconds


class Agent:
    """A chat model with one user's long-term memory.

    with Agent.open(user="ana", backend="rag") as agent:
        agent.ask("My dog is called Biscuit.", session="monday")
        print(agent.ask("What is my dog called?", session="tuesday").text)
    """

    def __init__(self, memory: Memory, model: ChatModel, settings: Settings | None = None) -> None:
        self.memory = memory
        self.model = model
        self.settings = settings or Settings()

    @classmethod
    def open(
        cls,
        *,
        user: str = "default",
        backend: str = "rag",
        model: str | ChatModel = DEFAULT_MODEL,
        backend_settings: Mapping[str, str] | None = None,
        settings: Settings | None = None,
        home: Home | None = None,
    ) -> Agent:
        """Open a user's memory and load a model.

        Args:
            model: a name as after ``--model``, or a chat model of one's own.
            home: where things are stored; by default as the environment says.

        Raises:
            MemagentError: see ``Memory.open`` and ``load_chat_model``.
        """
        home = home or Home.from_environment()
        chat = (
            load_chat_model(model, home.models, notify=lambda said: None) if isinstance(model, str) else model
        )
        return cls(
            Memory.open(home, user, backend, backend_settings, make_model=lambda: as_local(chat)),
            chat,
            settings,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def conversation(self, session: str) -> Conversation:
        """Begin or continue a session whose events the caller wants to see."""
        return Conversation(self.memory, self.model, session, self.settings)

    def ask(self, text: str, *, session: str) -> Reply:
        """Say something in a session and wait for the whole answer.

        Raises:
            MemagentError: see ``Conversation.send``.
        """
        return collect(list(self.stream(text, session=session)))

    def stream(self, text: str, *, session: str) -> Iterator[Event]:
        """Say something in a session and yield what happens, the reply's tokens among it; see ``events``.

        Raises:
            MemagentError: see ``Conversation.send``.
        """
        return self.conversation(session).send(text)

    def remember(self, text: str, *, session: str, role: str = "user", **fields: Any) -> Remembered:
        """Add a turn without asking the model.

        Args:
            role: ``user``, ``assistant``, ``system`` or ``tool``.
            fields: as for ``Memory.remember``.

        Raises:
            InputError: the text or a name cannot be stored.
            StorageError: the journal cannot be written; nothing was stored.
        """
        turn = self.memory.journal.append(session, role, text, **fields)
        return remembered(turn, self.memory.catch_up())

    def recall(self, query: str, *, limit: int = 5) -> list[Recollection]:
        """Return what memory holds relevant to a query, best first; often nothing.

        Args:
            limit: most recollections returned.
        """
        return self.memory.recall(query, limit=limit)

    def forget(self, *seqs: int) -> Forgotten:
        """Forget turns everywhere; see ``Memory.forget``."""
        return self.memory.forget(seqs)

    def close(self) -> None:
        self.memory.close()


def collect(events: list[Event]) -> Reply:
    """Make a reply of one turn's events."""
    ended = next(event for event in reversed(events) if isinstance(event, TurnEnded))
    recalled = next(event for event in events if isinstance(event, Recalled))
    return Reply(ended.reply, recalled.shown, ended.usage, ended.seconds)
