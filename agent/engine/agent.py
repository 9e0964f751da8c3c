"""A chat model with a user's long-term memory, as one object for programs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from memagent.agent.engine.conversation import Conversation, Settings, remembered
from memagent.agent.engine.events import Event, Recalled, Remembered, Seconds, TurnEnded, Usage
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.memory.composition import open_memory
from memagent.agent.memory.forgetting import Forgotten
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.chat import ChatModel
from memagent.agent.models.models import Models
from memagent.backends.records import Recollection, Turn

_LOG = logging.getLogger("memagent")


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply, with the recollections it had in view and its cost.

    Attributes:
        text: the reply.
        recollections: the recollections that the model got.
        usage: sizes in tokens.
        seconds: durations.
    """

    text: str
    recollections: tuple[Recollection, ...]
    usage: Usage
    seconds: Seconds


class Agent:
    """A chat model with one user's long-term memory.

        with Agent.open(user="ana", backend="rag") as agent:
            agent.ask("My dog is called Biscuit.", session="monday")
            print(agent.ask("What is my dog called?", session="tuesday").text)

    Args:
        memory: the user's memory; ``close`` closes it.
        model: any chat model.
        settings: settings of all conversations; by default, ``Settings()``.
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
        embedder: str | None = None,
        backend_settings: Mapping[str, str] | None = None,
        settings: Settings | None = None,
        home: Home | None = None,
    ) -> Agent:
        """Open a user's memory and load a model.

        Args:
            user: name of the user.
            backend: name of the memory backend, or several names joined by ``+``.
            model: a model's name as after ``--model``, or a chat model.
            embedder: an embedder's name as after ``--embedder``; None: as the environment says.
            backend_settings: the backend's hyper-parameters as text, by field name.
            settings: settings of all conversations; by default, ``Settings()``.
            home: the folders of the installation; by default those that the environment names.

        Raises:
            MemagentError: see ``Memory.open`` and ``load_chat_model``.
        """
        home = home or Home.from_environment()
        models = Models.shared(home.models, embedder)
        if not isinstance(model, str):
            models = models.with_chat(model)
        name = model if isinstance(model, str) else model.name
        chat = models.chat(name)
        return cls(open_memory(home, models, user, backend, backend_settings, model=name), chat, settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def conversation(self, session: str) -> Conversation:
        """Return a conversation that begins or continues a session, for a caller that reads the events.

        Args:
            session: name of the session.

        Raises:
            MemagentError: see ``Conversation``.
        """
        return Conversation(self.memory, self.model, session, self.settings)

    def ask(self, text: str, *, session: str) -> Reply:
        """Send a message in a session and return the complete reply.

        Args:
            text: the message.
            session: name of the session.

        Raises:
            MemagentError: see ``Conversation.send``.
        """
        return collect(list(self.stream(text, session=session)))

    def stream(self, text: str, *, session: str) -> Iterator[Event]:
        """Send a message in a session and yield the events of the turn, among them the reply's tokens.

        Args:
            text: the message.
            session: name of the session.

        Raises:
            MemagentError: see ``Conversation.send``.
        """
        return self.conversation(session).send(text)

    def remember(self, text: str, *, session: str, role: str = "user", **fields: Any) -> Remembered:
        """Add a turn without a reply of the model.

        Args:
            text: the message.
            session: name of the session.
            role: ``user``, ``assistant``, ``system`` or ``tool``.
            fields: as in ``Memory.remember``.

        Returns:
            The turn, and what the backend did with it.

        Raises:
            InputError: the text or a name cannot be stored; nothing was stored.
            StorageError: the journal cannot be written, and nothing was stored; or a backend's files cannot, and the turn is
                in the journal.
            ModelError: a model cannot be fetched or loaded; the turn is in the journal.
        """
        turn = self.memory.journal.append(session, role, text, **fields)
        return remembered(turn, self.memory.catch_up())

    def recall(self, query: str, *, limit: int = 5) -> list[Recollection]:
        """Return recollections that are relevant to a query, best first; often none.

        Args:
            query: a message or a question.
            limit: most recollections returned.
        """
        return self.memory.recall(query, limit=limit)

    def forget(self, *seqs: int) -> Forgotten:
        """Remove turns everywhere.

        Args:
            seqs: seqs of the turns.

        Returns:
            What was removed and what remains to be done.

        Raises:
            MemagentError: see ``Memory.forget``.
        """
        return self.memory.forget(seqs)

    def correct(self, seq: int, text: str) -> Turn:
        """Replace the text of a turn that was wrong, everywhere; replies that may repeat it are removed.

        Args:
            seq: of the turn.
            text: what it should have said.

        Returns:
            The turn that took its place.

        Raises:
            MemagentError: see ``Memory.correct``.
        """
        return self.memory.correct(seq, text)[0]

    def pin(self, *seqs: int) -> None:
        """Pin turns: every prompt holds them, whatever is asked.

        Args:
            seqs: seqs of the turns.

        Raises:
            MemagentError: see ``Journal.pin``.
        """
        self.memory.journal.pin(seqs)

    def unpin(self, *seqs: int) -> None:
        """Unpin turns.

        Args:
            seqs: seqs of the turns.

        Raises:
            MemagentError: see ``Journal.unpin``.
        """
        self.memory.journal.unpin(seqs)

    def close(self) -> None:
        """Close the memory."""
        self.memory.close()


def collect(events: list[Event]) -> Reply:
    """Return the reply that the events of one turn describe.

    Args:
        events: all events of the turn, in order.
    """
    ended = next(event for event in reversed(events) if isinstance(event, TurnEnded))
    recalled = next(event for event in events if isinstance(event, Recalled))
    return Reply(ended.reply, recalled.in_view, ended.usage, ended.seconds)
