"""Chat models with long-term memories for programs with an event loop: one user's agent, and those of many users."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from memagent.agent.engine.agent import Reply, collect
from memagent.agent.engine.conversation import Settings, remembered
from memagent.agent.engine.events import Event, Remembered
from memagent.agent.engine.workers import Workers
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.memory.forgetting import Forgotten
from memagent.agent.memory.pool import MemoryPool
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.chat import ChatModel
from memagent.backends.records import Recollection, Turn

Result = TypeVar("Result")


class AsyncAgents:
    """A chat model with the memories of many users, for programs with an event loop.

        async with AsyncAgents(MemoryPool(backend="rag")) as agents:
            reply = await agents.of("ana").ask("My dog is called Biscuit.", session="monday")

    All work is done in threads. Replies wait in a queue that serves the users round robin; the replies of one user come one
    after the other, in the order of the questions. Calls without a reply do not wait for replies.

    Args:
        pool: the memories; ``close`` closes it.
        model: a model's name as after ``--model``, or a chat model; None: the pool's. A name is loaded with the first reply.
        settings: settings of all conversations; by default, ``Settings()``.
        parallel: how many replies are generated at a time; None: 4 for a provider's model (``ollama:llama3.2``), else 1,
            because a model in this process computes on all cores.

    Raises:
        SettingError: ``parallel`` is not positive.
    """

    def __init__(
        self,
        pool: MemoryPool,
        model: str | ChatModel | None = None,
        settings: Settings | None = None,
        *,
        parallel: int | None = None,
    ) -> None:
        self._workers = Workers(pool, model or pool.model, settings or Settings(), parallel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def of(self, user: str) -> AsyncAgent:
        """Return the agent of one user. It costs nothing: the memory is opened by the first call.

        Args:
            user: name of the user.
        """
        return AsyncAgent(self._workers, user)

    async def close(self) -> None:
        """Wait for replies and calls in progress, and close the memories. What still waits in the queue is refused.

        Raises:
            MemagentError: see ``MemoryPool.close``.
        """
        await self._workers.close()


class AsyncAgent:
    """A chat model with one user's long-term memory, for programs with an event loop: the twin of ``Agent``.

        async with AsyncAgent.open(user="ana", backend="rag") as agent:
            await agent.ask("My dog is called Biscuit.", session="monday")

    Build it with ``open``, or with ``AsyncAgents.of`` for many users.

    Attributes:
        user: name of the user.
    """

    def __init__(self, workers: Workers, user: str, *, owns_workers: bool = False) -> None:
        self.user = user
        self._workers = workers
        self._owns_workers = owns_workers

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
    ) -> AsyncAgent:
        """Return an agent for one user; the first call that needs them opens the memory and loads the model.

        Args:
            user: name of the user.
            backend: name of the memory backend, or several names joined by ``+``.
            model: a model's name as after ``--model``, or a chat model.
            embedder: an embedder's name as after ``--embedder``; None: as the environment says.
            backend_settings: the backend's hyper-parameters as text, by field name.
            settings: settings of all conversations; by default, ``Settings()``.
            home: the folders of the installation; by default those that the environment names.

        Raises:
            SettingError: the environment names folders that cannot be used.
        """
        pool = MemoryPool(home, backend=backend, settings=backend_settings, embedder=embedder, model=model)
        return cls(Workers(pool, pool.model, settings or Settings()), user, owns_workers=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ask(self, text: str, *, session: str) -> Reply:
        """Send a message in a session and return the complete reply; see ``stream`` for what a cancellation stores.

        Args:
            text: the message.
            session: name of the session.

        Raises:
            MemagentError: see ``stream``.
        """
        return collect([event async for event in self.stream(text, session=session)])

    def stream(self, text: str, *, session: str) -> AsyncIterator[Event]:
        """Send a message in a session and yield the events of the turn, among them the reply's tokens.

        If the task is cancelled or the iterator is closed, the reply ends after its next token. The journal keeps the
        message and the reply so far, before the user's next reply begins; nobody waits for it. While the message waits in
        the queue, nothing is stored yet. A reader that takes no event for a minute, though over a thousand wait, stops the
        reply too.

        Args:
            text: the message.
            session: name of the session.

        Raises:
            MemagentError: see ``Agent.open`` and ``Conversation.send``; or the agents are closed.
        """
        return self._workers.stream(self.user, text, session)

    async def use(self, function: Callable[[Memory], Result]) -> Result:
        """Call a function with the user's open memory, in a thread: for what has no method here.

        Args:
            function: takes the memory, which it must not close.

        Returns:
            What the function returns.

        Raises:
            MemagentError: see ``Workers.use``.
        """
        return await self._workers.use(self.user, function)

    async def remember(self, text: str, *, session: str, role: str = "user", **fields: Any) -> Remembered:
        """Add a turn without a reply of the model.

        Args:
            text: the message.
            session: name of the session.
            role: ``user``, ``assistant``, ``system`` or ``tool``.
            fields: as in ``Memory.remember``.

        Returns:
            The turn, and what the backend did with it.

        Raises:
            MemagentError: see ``Agent.remember`` and ``use``.
        """

        def add(memory: Memory) -> Remembered:
            turn = memory.journal.append(session, role, text, **fields)
            return remembered(turn, memory.catch_up())

        return await self.use(add)

    async def recall(self, query: str, *, limit: int = 5) -> list[Recollection]:
        """Return recollections that are relevant to a query, best first; often none.

        Args:
            query: a message or a question.
            limit: most recollections returned.

        Raises:
            MemagentError: see ``Memory.recall`` and ``use``.
        """
        return await self.use(lambda memory: memory.recall(query, limit=limit))

    async def forget(self, *seqs: int) -> Forgotten:
        """Remove turns everywhere.

        Args:
            seqs: seqs of the turns.

        Returns:
            What was removed and what remains to be done.

        Raises:
            MemagentError: see ``Memory.forget`` and ``use``.
        """
        return await self.use(lambda memory: memory.forget(seqs))

    async def correct(self, seq: int, text: str) -> Turn:
        """Replace the text of a turn that was wrong, everywhere; replies that may repeat it are removed.

        Args:
            seq: of the turn.
            text: what it should have said.

        Returns:
            The turn that took its place.

        Raises:
            MemagentError: see ``Memory.correct`` and ``use``.
        """
        return await self.use(lambda memory: memory.correct(seq, text)[0])

    async def pin(self, *seqs: int) -> None:
        """Pin turns: every prompt holds them, whatever is asked.

        Args:
            seqs: seqs of the turns.

        Raises:
            MemagentError: see ``Journal.pin`` and ``use``.
        """
        await self.use(lambda memory: memory.journal.pin(seqs))

    async def unpin(self, *seqs: int) -> None:
        """Unpin turns.

        Args:
            seqs: seqs of the turns.

        Raises:
            MemagentError: see ``Journal.unpin`` and ``use``.
        """
        await self.use(lambda memory: memory.journal.unpin(seqs))

    async def close(self) -> None:
        """Close what ``open`` has opened. An agent that ``AsyncAgents.of`` returned leaves that to ``AsyncAgents.close``."""
        if self._owns_workers:
            await self._workers.close()
