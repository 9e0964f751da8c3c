"""Agents in an event loop: many users, replies in fair order, and what is stored when a reply ends early."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import Any, cast

import pytest

from memagent.agent.engine.async_agent import AsyncAgent, AsyncAgents
from memagent.agent.engine.conversation import Settings
from memagent.agent.engine.event_channel import EventChannel
from memagent.agent.engine.events import Recalled, Remembered, Token, TurnBegan, TurnEnded
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.memory.pool import MemoryPool
from memagent.agent.models.chat import ChatModel, Message, Sampling
from memagent.agent.models.fakes import EchoModel, ScriptedModel
from memagent.backends.errors import InputError, ModelError, NotFoundError, SettingError, StorageError
from tests.agent.conversing import ATTACHED, FACT, QUESTION, FailingModel, journal_of
from tests.agent.engine.test_channels import ContextModel, InContext
from tests.agent.memories import offer

WAIT = 60
Agents = Callable[..., AsyncAgents]


@pytest.fixture
def new_agents(home: Home) -> Agents:
    """Returns agents over a pool of ``in_memory``; the test closes them."""

    def new(model: ChatModel, *, backend: str = "in_memory", **options: Any) -> AsyncAgents:
        return AsyncAgents(MemoryPool(home, backend=backend), model, **options)

    return new


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, WAIT))


class GatedModel(EchoModel):
    """Generates word after word, each when the test allows it; records what it is asked."""

    def __init__(self, words: int = 3) -> None:
        self.questions: list[str] = []
        self._words_of_a_reply = words
        self._asked = threading.Semaphore(0)
        self._allowed = threading.Semaphore(0)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        self.questions.append(messages[-1].content.rpartition("\n")[2])
        self._asked.release()
        for number in range(self._words_of_a_reply):
            assert self._allowed.acquire(timeout=WAIT)
            yield f"word{number} "

    def allow(self, words: int) -> None:
        self._allowed.release(words)

    async def is_asked(self) -> None:
        assert await asyncio.to_thread(self._asked.acquire, timeout=WAIT)


@asynccontextmanager
async def asking(agent: AsyncAgent, *texts: str) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Tasks that ask, in this order: the first is being answered or waits, the others wait."""
    tasks = [asyncio.create_task(agent.ask(text, session="monday")) for text in texts]
    await asyncio.sleep(0)
    yield tasks
    await asyncio.gather(*tasks, return_exceptions=True)


# What an agent does


def test_an_agent_answers_from_memory(home: Home) -> None:
    async def main() -> None:
        model = ScriptedModel(["Nice.", "It is Biscuit."])
        async with AsyncAgent.open(user="ana", backend="in_memory", model=model, home=home) as agent:
            await agent.ask(FACT, session="monday")
            reply = await agent.ask(QUESTION, session="tuesday")
        assert (reply.text, [item.text for item in reply.recollections]) == ("It is Biscuit.", [FACT])
        with pytest.raises(StorageError, match="closed"):
            await agent.recall(QUESTION)

    run(main())


def test_stream_yields_the_events_of_the_turn(new_agents: Agents) -> None:
    async def main() -> None:
        async with new_agents(ScriptedModel(["Nice to know."])) as agents:
            events = [event async for event in agents.of("ana").stream(FACT, session="monday")]
        kinds = [TurnBegan, Recalled, Token, Token, Token, Remembered, Remembered, TurnEnded]
        assert [type(event) for event in events] == kinds

    run(main())


def test_turns_are_remembered_recalled_corrected_pinned_and_forgotten(new_agents: Agents) -> None:
    async def main() -> None:
        async with new_agents(EchoModel()) as agents:
            agent = agents.of("ana")
            event = await agent.remember(FACT, session="monday", speaker="Ana")
            assert (event.turn.speaker, event.journal_only) == ("Ana", False)
            assert [item.text for item in await agent.recall(QUESTION)] == [FACT]
            turn = await agent.correct(event.turn.seq, "My dog is called Crumb.")
            await agent.pin(turn.seq)
            assert [item.text for item in await agent.use(Memory.pinned)] == ["My dog is called Crumb."]
            await agent.unpin(turn.seq)
            assert await agent.use(Memory.pinned) == []
            assert (await agent.forget(turn.seq)).turns == (turn.seq,)
            assert await agent.recall(QUESTION, limit=1) == []
            with pytest.raises(InputError):
                await agent.remember("  ", session="monday")

    run(main())


def test_settings_and_model_hold_for_all_users(new_agents: Agents) -> None:
    async def main() -> None:
        model = ScriptedModel(["one", "two"])
        async with new_agents(model, settings=Settings(system="Be kind.")) as agents:
            for user in ("ana", "ben"):
                await agents.of(user).ask("Hello.", session="monday")
        assert {prompt[0].content for prompt in model.prompts} == {"Be kind."}

    run(main())


# Many users


def test_ten_users_at_once_get_their_own_memories_only(new_agents: Agents) -> None:
    users = [f"user{number}" for number in range(10)]

    async def talk(agent: AsyncAgent) -> str:
        await agent.remember(f"My dog is called {agent.user}-dog.", session="monday")
        return (await agent.ask(QUESTION, session="tuesday")).text

    async def main() -> None:
        async with new_agents(EchoModel(), parallel=3) as agents:
            replies = await asyncio.gather(*(talk(agents.of(user)) for user in users))
        for user, reply in zip(users, replies, strict=True):
            assert [other for other in users if f"{other}-dog" in reply] == [user]

    run(main())


def test_many_messages_of_one_user_do_not_delay_another(new_agents: Agents) -> None:
    async def main() -> None:
        model = GatedModel(words=1)
        async with new_agents(model, backend="none") as agents:
            messages = [f"ana {number}" for number in range(20)]
            async with asking(agents.of("ana"), *messages), asking(agents.of("ben"), "ben 0", "ben 1"):
                await model.is_asked()
                model.allow(22)
        assert model.questions[:5] == ["ana 0", "ben 0", "ana 1", "ben 1", "ana 2"]
        assert model.questions[5:] == messages[3:]

    run(main())


@pytest.mark.parametrize(
    ("name", "parallel", "expected"), [("gated", None, 1), ("gated", 2, 2), ("ollama:x", None, 4)]
)
def test_as_many_replies_at_a_time_as_the_model_can(
    new_agents: Agents, name: str, parallel: int | None, expected: int
) -> None:
    async def main() -> None:
        model = GatedModel(words=1)
        model.name = name
        async with new_agents(model, backend="none", parallel=parallel) as agents:
            tasks = [
                asyncio.create_task(agents.of(f"user{number}").ask("Hello.", session="monday"))
                for number in range(6)
            ]
            for _ in range(expected):
                await model.is_asked()
            assert len(model.questions) == expected
            model.allow(len(tasks))
            await asyncio.gather(*tasks)

    run(main())


def test_the_event_loop_goes_on_while_a_reply_is_generated(new_agents: Agents) -> None:
    async def main() -> None:
        model = GatedModel(words=3)
        async with new_agents(model) as agents, asking(agents.of("ana"), "Hello.") as (task,):
            for _ in range(3):  # if the loop waited for the model, nobody would allow it the next word
                await asyncio.sleep(0)
                model.allow(1)
            assert (await task).text == "word0 word1 word2"

    run(main())


def test_calls_do_not_wait_for_replies(new_agents: Agents) -> None:
    async def main() -> None:
        model = GatedModel(words=1)
        async with new_agents(model) as agents, asking(agents.of("ana"), "Hello."):
            await model.is_asked()
            await agents.of("ana").remember(FACT, session="monday")
            assert [item.text for item in await agents.of("ana").recall(QUESTION)] == [FACT]
            model.allow(1)

    run(main())


def test_memories_inside_the_model_do_not_meet(new_agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, InContext)

    async def main() -> None:
        async with new_agents(
            ContextModel("unused"), settings=Settings(channel="model"), parallel=2
        ) as agents:
            asked = (agents.of(user).ask(f"of {user}", session="monday") for user in ("ana", "ben"))
            assert [reply.text for reply in await asyncio.gather(*asked)] == [
                "of ana of ana of ana",
                "of ben of ben of ben",
            ]
        assert ATTACHED.get() == "nothing"

    run(main())


# Replies that end early


def test_a_cancelled_task_keeps_message_and_partial_reply(new_agents: Agents) -> None:
    async def main() -> None:
        model = GatedModel(words=3)
        async with new_agents(model) as agents:
            agent = agents.of("ana")
            async with asking(agent, "first") as (task,):
                await model.is_asked()
                task.cancel()
            assert task.cancelled()  # at once, though the model has not gone on
            async with asking(agent, "second"), asking(agents.of("ben"), "other"):
                model.allow(1)  # the token after which the first reply ends
                await model.is_asked()
                model.allow(6)
            assert await agent.use(journal_of) == [
                ("user", "first"),
                ("assistant", "word0"),
                ("user", "second"),
                ("assistant", "word0 word1 word2"),
            ]

    run(main())


def test_a_task_cancelled_in_the_queue_stores_nothing(new_agents: Agents) -> None:
    async def main() -> None:
        model = GatedModel(words=1)
        async with new_agents(model) as agents:
            async with asking(agents.of("ana"), "first", "second", "third") as tasks:
                await model.is_asked()
                tasks[1].cancel()
                model.allow(2)
            texts = [text for _, text in await agents.of("ana").use(journal_of)]
        assert texts == ["first", "word0", "third", "word0"]

    run(main())


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "dropped"])
def test_an_abandoned_stream_keeps_message_and_partial_reply(
    new_agents: Agents, home: Home, closed: bool
) -> None:
    async def main() -> None:
        model = GatedModel(words=3)
        async with new_agents(model) as agents:
            agent = agents.of("ana")
            model.allow(1)
            if closed:
                async with aclosing(cast(Any, agent.stream("Hello.", session="monday"))) as events:
                    async for event in events:
                        if isinstance(event, Token):
                            break
            else:
                async for event in agent.stream("Hello.", session="monday"):
                    if isinstance(event, Token):
                        break
            for _ in range(5):  # a stream that is dropped is closed by a task of the event loop
                await asyncio.sleep(0)
            model.allow(1)
        with MemoryPool(home, backend="in_memory") as pool, pool.memory("ana") as memory:
            assert journal_of(memory) == [("user", "Hello."), ("assistant", "word0 word1")]

    run(main())


def test_a_stream_that_is_not_iterated_stores_nothing(new_agents: Agents) -> None:
    async def main() -> None:
        async with new_agents(EchoModel()) as agents:
            agents.of("ana").stream("Hello.", session="monday")
            assert await agents.of("ana").use(journal_of) == []

    run(main())


def test_a_reader_that_stalls_ends_its_reply_and_holds_up_nobody(
    new_agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(EchoModel):
        def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
            if "endless" in messages[-1].content:
                return (f"word{number} " for number in count())
            return super().stream(messages, sampling)

    monkeypatch.setattr("memagent.agent.engine.workers.EventChannel", lambda: EventChannel(4, 0.01))

    async def main() -> None:
        async with new_agents(Endless()) as agents:
            events = agents.of("ana").stream("An endless one.", session="monday")
            await anext(events)
            assert (await agents.of("ben").ask("Hello.", session="monday")).text == "Hello."
            *_, last = [event async for event in events]
            assert isinstance(last, TurnEnded)
            assert last.stopped

    run(main())


def test_a_model_that_fails_raises_after_the_message_is_stored(new_agents: Agents) -> None:
    class FailingOnce(FailingModel):
        def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
            if "second" in messages[-1].content:
                return EchoModel().stream(messages, sampling)
            return super().stream(messages, sampling)

    async def main() -> None:
        async with new_agents(FailingOnce("partial ")) as agents:
            agent = agents.of("ana")
            with pytest.raises(ModelError, match="the model broke"):
                await agent.ask("first", session="monday")
            await agent.ask("second", session="monday")
            assert await agent.use(journal_of) == [
                ("user", "first"),
                ("assistant", "partial"),
                ("user", "second"),
                ("assistant", "second"),
            ]

    run(main())


def test_a_reply_that_fails_when_nobody_reads_it_is_logged(
    new_agents: Agents, caplog: pytest.LogCaptureFixture
) -> None:
    class FailingLater(GatedModel):
        def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
            for _ in super().stream(messages, sampling):
                raise ModelError("the model broke")
            yield "unused"

    async def main() -> None:
        model = FailingLater()
        async with new_agents(model) as agents, asking(agents.of("ana"), "Hello.") as (task,):
            await model.is_asked()
            task.cancel()
            await asyncio.wait([task])
            model.allow(1)

    run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "A reply to user 'ana' that nobody reads any more failed: the model broke"
    ]


def test_what_cannot_be_asked_raises_and_stores_nothing(new_agents: Agents) -> None:
    async def main() -> None:
        async with new_agents(EchoModel()) as agents:
            with pytest.raises(InputError):
                await agents.of("ana").ask(" ", session="monday")
            assert await agents.of("ana").use(journal_of) == []
            with pytest.raises(InputError, match="user name is empty"):
                await agents.of("").ask("Hello.", session="monday")

    run(main())


def test_a_model_that_does_not_exist_is_named_by_the_first_reply(home: Home) -> None:
    async def main() -> None:
        async with AsyncAgent.open(backend="none", model="no-such-model", home=home) as agent:
            with pytest.raises(NotFoundError, match="no-such-model"):
                await agent.ask("Hello.", session="monday")

    run(main())


# Closing


def test_closing_waits_for_the_reply_in_progress_and_refuses_what_waits(new_agents: Agents) -> None:
    async def main() -> None:
        model = GatedModel(words=2)
        agents = new_agents(model)
        async with asking(agents.of("ana"), "first", "second") as (first, second):
            await model.is_asked()
            closing = asyncio.create_task(agents.close())
            with pytest.raises(StorageError, match="nothing was stored"):
                await second
            assert not closing.done()
            model.allow(2)
            await closing
            assert (await first).text == "word0 word1"
        with pytest.raises(StorageError, match="closed"):
            await agents.of("ana").recall("Hello.")
        await agents.close()

    run(main())


def test_a_call_that_is_cancelled_runs_to_its_end(new_agents: Agents) -> None:
    async def main() -> None:
        inside, go = threading.Event(), threading.Event()

        def remember(memory: Memory) -> None:
            inside.set()
            assert go.wait(WAIT)
            memory.remember("monday", "user", FACT)

        async with new_agents(EchoModel()) as agents:
            task = asyncio.create_task(agents.of("ana").use(remember))
            assert await asyncio.to_thread(inside.wait, WAIT)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            go.set()
            assert [item.text for item in await agents.of("ana").recall(QUESTION)] == [FACT]

    run(main())


def test_agents_go_on_in_another_event_loop_after_one_was_closed_under_a_reply(new_agents: Agents) -> None:
    model = GatedModel()
    agents = new_agents(model)

    async def leave() -> None:
        task = asyncio.create_task(agents.of("ana").ask("first", session="monday"))
        await model.is_asked()
        task.add_done_callback(lambda _: None)  # asyncio.run cancels it, and does not wait for the thread

    async def go_on() -> None:
        model.allow(4)
        assert (await agents.of("ana").ask("second", session="monday")).text == "word0 word1 word2"
        turns = await agents.of("ana").use(journal_of)
        assert turns[:3] == [("user", "first"), ("assistant", "word0"), ("user", "second")]
        await agents.close()

    run(leave())
    run(go_on())


def test_no_reply_at_a_time_is_refused(new_agents: Agents) -> None:
    with pytest.raises(SettingError, match="parallel=0"):
        new_agents(EchoModel(), parallel=0)
