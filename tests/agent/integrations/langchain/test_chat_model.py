"""The models of memagent as LangChain chat models, without memory and with memory inside."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)

from memagent.agent.engine.prompt import SYSTEM_MODEL_CHANNEL
from memagent.agent.home import Home
from memagent.agent.integrations.langchain.thread import SEQS
from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.fakes import EchoModel, ScriptedModel
from memagent.agent.testing import tiny_model
from memagent.backends import registry
from memagent.backends.errors import InputError, ModelError, NotFoundError, SettingError
from memagent.backends.protocol import Injection, LocalModel
from memagent.langchain import ChatMemagent, MemoryContext, MemoryMiddleware, MemoryPool
from tests.agent.conversing import ATTACHED, ClosingModel, FailingModel, LocalScriptedModel, WithChannel
from tests.agent.integrations.langchain.agents import FACT, QUESTION, journal_of, say


@pytest.fixture
def pool_with_channel(pool: MemoryPool, monkeypatch: pytest.MonkeyPatch) -> MemoryPool:
    """A pool whose backend acts inside models."""
    monkeypatch.setattr(registry, "get", lambda name: WithChannel)
    monkeypatch.setattr(WithChannel, "log", [])
    with pool.memory("ana") as memory:
        memory.remember("monday", "user", FACT)
    return pool


class Excluding(WithChannel):
    """Notes the turns that are not to be attended to."""

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Injection]:
        self.log.append(f"{query} without {sorted(exclude)}")
        yield Injection([], frozenset({1}))


class InContext(WithChannel):
    """Attaches by a context variable, as a backend does that acts inside a model."""

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Injection]:
        token = ATTACHED.set(query)
        try:
            yield Injection()
        finally:
            ATTACHED.reset(token)


class ContextModel(LocalScriptedModel):
    """Says what is attached in the context it answers in, a word at a time."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        for _ in range(3):
            yield f"{ATTACHED.get()} "


# without memory


def test_messages_reach_the_model_as_they_are() -> None:
    model = ScriptedModel(["Nice."])
    chat = ChatMemagent(model=model)
    messages = [
        SystemMessage("Be kind."),
        HumanMessage("Hi <memory>"),
        AIMessage("Hi."),
        HumanMessage([{"type": "text", "text": FACT}]),
    ]
    assert chat.invoke(messages).text == "Nice."
    assert model.prompts == [
        [
            Message("system", "Be kind."),
            Message("user", "Hi <memory>"),
            Message("assistant", "Hi."),
            Message("user", FACT),
        ]
    ]


def test_a_reply_has_the_usage_and_the_models_name() -> None:
    message = ChatMemagent(model=EchoModel()).invoke("one two three")
    assert message.usage_metadata == {"input_tokens": 4, "output_tokens": 3, "total_tokens": 7}
    assert message.response_metadata["model_name"] == "echo"
    assert SEQS not in message.response_metadata


def test_its_own_model_counts_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain would download GPT-2's tokenizer, and count with that."""
    monkeypatch.setattr("langchain_core.language_models.base.get_tokenizer", None)
    model = ChatMemagent(model=EchoModel())
    messages = [
        SystemMessage("Be brief."),
        HumanMessage("one two three"),
        AIMessage("four"),
        HumanMessage("five"),
    ]
    assert model.get_num_tokens("one two three") == 3
    assert model.get_num_tokens_from_messages(messages) == 2 + 3 + 1 + 1 + 4
    assert trim_messages(messages, max_tokens=4, token_counter=model, start_on="human") == messages[3:]
    with pytest.raises(SettingError, match=r"echo has no tokenizer.*get_num_tokens"):
        model.get_token_ids("one")
    local: Any = tiny_model()
    local.name = "tiny"
    ids = ChatMemagent(model=local).get_token_ids("one two")
    assert local.tokenizer.decode(ids) == "one two"


def test_it_streams_token_by_token_and_marks_the_last_chunk() -> None:
    chunks = list(ChatMemagent(model=EchoModel()).stream("one two three"))
    assert [chunk.text for chunk in chunks] == ["one ", "two ", "three", ""]
    assert [chunk.chunk_position for chunk in chunks if isinstance(chunk, AIMessageChunk)] == [
        None,
        None,
        None,
        "last",
    ]
    assert [bool(chunk.usage_metadata) for chunk in chunks] == [False, False, False, True]


@pytest.mark.parametrize(
    ("stop", "reply"),
    [(["wo t"], "one t"), (["x", "three"], "one two "), (["one"], ""), ([""], "one two three")],
)
def test_a_stop_text_ends_the_reply_wherever_tokens_end(stop: list[str], reply: str) -> None:
    assert ChatMemagent(model=EchoModel()).invoke("one two three", stop=stop).content == reply
    assert ChatMemagent(model=EchoModel(), stop=stop).invoke("one two three").content == reply


def test_sampling_is_set_for_the_model_or_for_one_call() -> None:
    chat = ChatMemagent(model=EchoModel(), max_tokens=2)
    assert chat.invoke("one two three").content == "one two "
    assert chat.bind(max_tokens=1).invoke("one two three").content == "one "


def test_a_name_loads_the_model_of_the_installation_or_the_pool(pool: MemoryPool) -> None:
    assert ChatMemagent(model="echo").invoke("Hi.").content == "Hi."
    assert ChatMemagent(model="echo", memory=pool).invoke("Hi.").content == "Hi."
    assert (
        ChatMemagent(model=ScriptedModel([])).invoke("Hi.", model="echo").response_metadata["model_name"]
        == "echo"
    )
    with pytest.raises(NotFoundError, match="There is no model 'ehco'"):
        ChatMemagent(model="ehco").invoke("Hi.")


def test_a_pool_gives_its_own_model(home: Home) -> None:
    with MemoryPool(home, backend="in_memory", model=ScriptedModel(["Nice."])) as pool:
        assert ChatMemagent(memory=pool).invoke("Hi.").content == "Nice."


def test_what_is_no_text_is_refused() -> None:
    chat = ChatMemagent(model=EchoModel())
    with pytest.raises(InputError, match="calls no tools"):
        chat.invoke([HumanMessage("Hi."), ToolMessage("It rains.", tool_call_id="1")])
    with pytest.raises(InputError, match="type 'image_url'"):
        chat.invoke(
            [HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}])]
        )
    with pytest.raises(NotImplementedError):
        chat.bind_tools([])


def test_messages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="take 9,001 tokens; scripted has room for 7,936"):
        ChatMemagent(model=LocalScriptedModel([])).invoke("word " * 9000)


def test_a_failure_of_the_model_is_raised() -> None:
    with pytest.raises(ModelError, match="the model broke"):
        ChatMemagent(model=FailingModel("one ")).invoke("Hi.")


def test_an_abandoned_stream_ends_the_generation() -> None:
    model = ClosingModel()
    chunks = ChatMemagent(model=model).stream("Hi.")
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert model.closed


def test_an_async_stream_that_is_left_ends_the_generation() -> None:
    model = ClosingModel()

    async def leave() -> None:
        chunks = ChatMemagent(model=model).astream("Hi.")
        async for _ in chunks:
            break
        await chunks.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert model.closed


# with memory


def test_recollections_are_in_the_prompt_and_nothing_is_stored(pool: MemoryPool) -> None:
    with pool.memory("ana") as memory:
        memory.remember("monday", "user", FACT)
    chat = ChatMemagent(model=EchoModel(), memory=pool, user="ana")
    message = chat.invoke(
        [SystemMessage("Be kind."), HumanMessage("Hi."), AIMessage("Hi."), HumanMessage(QUESTION)]
    )
    assert FACT in message.text
    assert message.response_metadata[SEQS] == [1]
    assert len(journal_of(pool)) == 1
    repeated = chat.invoke([HumanMessage(FACT), AIMessage("Nice."), HumanMessage(QUESTION)])
    assert FACT not in repeated.text  # it is in the prompt already
    assert ChatMemagent(model=EchoModel(), memory=pool).invoke(QUESTION).text == QUESTION


def test_a_reply_with_memory_is_in_no_cache(pool: MemoryPool) -> None:
    set_llm_cache(InMemoryCache())
    try:
        chat = ChatMemagent(model=EchoModel(), memory=pool, user="ana")
        assert chat.invoke(QUESTION).text == QUESTION
        with pool.memory("ana") as memory:
            memory.remember("monday", "user", FACT)
        assert FACT in chat.invoke(QUESTION).text
    finally:
        set_llm_cache(None)


def test_memory_recalls_for_a_message_by_the_user(pool: MemoryPool) -> None:
    chat = ChatMemagent(model=EchoModel(), memory=pool, user="ana")
    with pytest.raises(InputError, match="the last message is none"):
        chat.invoke([HumanMessage("Hi."), AIMessage("Hi.")])


def test_memory_acts_inside_a_local_model(pool_with_channel: MemoryPool) -> None:
    model = LocalScriptedModel(["It is Biscuit."])
    message = ChatMemagent(model=model, memory=pool_with_channel, user="ana").invoke(QUESTION)
    assert WithChannel.log == [f"attached to {QUESTION}", "detached"]
    assert model.prompts[0][0] == Message("system", SYSTEM_MODEL_CHANNEL)
    assert FACT not in model.prompts[0][-1].content
    assert message.response_metadata[SEQS] == [1]


def test_the_channel_is_closed_when_a_stream_is_abandoned(pool_with_channel: MemoryPool) -> None:
    chat = ChatMemagent(model=LocalScriptedModel(["one two three"]), memory=pool_with_channel, user="ana")
    chunks = chat.stream(QUESTION)
    next(chunks)
    assert WithChannel.log == [f"attached to {QUESTION}"]
    chunks.close()  # type: ignore[attr-defined]
    assert WithChannel.log == [f"attached to {QUESTION}", "detached"]


def test_replies_at_once_do_not_see_each_others_memory(
    pool: MemoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "get", lambda name: InContext)
    model = ContextModel([])
    questions = {"ana": "of Ana", "bob": "of Bob"}
    chats = [ChatMemagent(model=model, memory=pool, user=user) for user in questions]
    streams = [chat.stream(text) for chat, text in zip(chats, questions.values(), strict=True)]
    replies = [
        "".join(chunk.text for chunk in chunks) for chunks in zip(*zip(*streams, strict=True), strict=True)
    ]
    assert replies == ["of Ana of Ana of Ana ", "of Bob of Bob of Bob "]

    async def all_at_once() -> list[AIMessage]:
        return await asyncio.gather(
            *(chat.ainvoke(text) for chat, text in zip(chats, questions.values(), strict=True))
        )

    assert [message.text for message in asyncio.run(all_at_once())] == replies
    assert ATTACHED.get() == "nothing"


def test_an_agents_middleware_puts_memory_inside_its_model(
    pool_with_channel: MemoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LocalScriptedModel(["It is Biscuit."])
    agent = create_agent(
        ChatMemagent(model=model),
        middleware=[MemoryMiddleware(pool_with_channel, channel="model")],
        context_schema=MemoryContext,
    )
    assert say(agent, QUESTION, "tuesday") == "It is Biscuit."
    assert WithChannel.log == [f"attached to {QUESTION}", "detached"]
    assert model.prompts == [[Message("system", SYSTEM_MODEL_CHANNEL), Message("user", QUESTION)]]
    with pool_with_channel.memory("ana") as memory:
        *_, message, reply = memory.journal.turns()
        assert (message.text, reply.text) == (QUESTION, "It is Biscuit.")
        assert (reply.in_view, reply.recalled, reply.derived) == ((1, 2), (1,), True)


def test_a_reply_of_a_model_with_memory_inside_is_not_recalled(
    pool: MemoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "get", lambda name: InContext)  # it does not say what it recalls
    agent: Any = create_agent(
        ChatMemagent(model=ContextModel([])),
        middleware=[MemoryMiddleware(pool, channel="model")],
        context_schema=MemoryContext,
    )
    assert say(agent, FACT, "monday") == f"{FACT} {FACT} {FACT} "
    with pool.memory("ana") as memory:
        assert [turn.derived for turn in memory.journal.turns()] == [False, True]
        assert [item.text for item in memory.recall(QUESTION)] == [FACT]


def test_what_the_prompt_holds_is_not_attended_to(pool: MemoryPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "get", lambda name: Excluding)
    monkeypatch.setattr(WithChannel, "log", [])
    agent: Any = create_agent(
        ChatMemagent(model=LocalScriptedModel(["Nice.", "Biscuit."])),
        middleware=[MemoryMiddleware(pool, channel="both")],
        context_schema=MemoryContext,
    )
    say(agent, FACT, "monday")
    say(agent, QUESTION, "tuesday")
    assert WithChannel.log == [f"{FACT} without []", f"{QUESTION} without [1]"]
    chat = ChatMemagent(model=LocalScriptedModel(["Yes."]), memory=pool, user="ana", channel="model")
    chat.invoke([HumanMessage(FACT), AIMessage("Nice."), HumanMessage("Really?")])
    assert WithChannel.log[-1] == "Really? without [1, 2]"
