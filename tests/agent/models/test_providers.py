"""LangChain chat models behind our interface, with LangChain's own fake models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage

from memagent.agent.engine.agent import Agent
from memagent.agent.memory import Memory
from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.providers import ProviderChatModel
from memagent.backends.errors import ModelError, SettingError

ASKED = [Message("system", "be brief"), Message("user", "What is my dog called?")]
OpenMemory = Callable[..., Memory]


def says(*replies: str) -> ProviderChatModel:
    return ProviderChatModel(
        GenericFakeChatModel(messages=iter([AIMessage(reply) for reply in replies])), "fake:x"
    )


@pytest.fixture
def langchain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package langchain whose ``init_chat_model`` the test fills in."""
    package, module = ModuleType("langchain"), ModuleType("langchain.chat_models")
    monkeypatch.setitem(sys.modules, "langchain", package)
    monkeypatch.setitem(sys.modules, "langchain.chat_models", module)
    return module


def test_a_reply_is_streamed_chunk_by_chunk() -> None:
    reply_texts = list(says("Your dog is called Biscuit.").stream(ASKED, Sampling()))
    assert len(reply_texts) > 3
    assert "".join(reply_texts) == "Your dog is called Biscuit."


def test_a_model_that_streams_characters_does_too() -> None:
    model = ProviderChatModel(FakeListChatModel(responses=["Biscuit"]), "fake:x")
    assert list(model.stream(ASKED, Sampling())) == list("Biscuit")


def test_the_provider_is_handed_every_message_with_its_role() -> None:
    seen: list[list[BaseMessage]] = []

    class Curious(FakeListChatModel):
        def _stream(self, messages: list[BaseMessage], *arguments: Any, **named: Any) -> Any:
            seen.append(messages)
            return super()._stream(messages, *arguments, **named)

    history = [*ASKED, Message("assistant", "Biscuit."), Message("user", "{not} a {template}")]
    list(ProviderChatModel(Curious(responses=["x"]), "fake:x").stream(history, Sampling()))
    assert [(message.type, message.text) for message in seen[0]] == [
        ("system", "be brief"),
        ("human", "What is my dog called?"),
        ("ai", "Biscuit."),
        ("human", "{not} a {template}"),
    ]


def test_a_provider_that_takes_no_further_options_answers_too() -> None:
    """As ChatOllama: what ``stream`` is given beyond messages reaches a client that refuses it."""

    class Strict(FakeListChatModel):
        def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **named: Any) -> Any:
            if named:
                raise TypeError(f"Client.chat() got an unexpected keyword argument {next(iter(named))!r}")
            return super()._stream(messages, stop, run_manager)

    model = ProviderChatModel(Strict(responses=["Biscuit"]), "ollama:llama3.2")
    assert "".join(model.stream(ASKED, Sampling(max_tokens=99))) == "Biscuit"


def test_a_failure_half_way_is_a_model_error_after_what_came() -> None:
    model = ProviderChatModel(FakeListChatModel(responses=["Biscuit"], error_on_chunk_number=3), "fake:x")
    reply_texts = model.stream(ASKED, Sampling())
    assert [next(reply_texts) for _ in range(3)] == list("Bis")
    with pytest.raises(ModelError, match="fake:x could not answer"):
        next(reply_texts)


def test_closing_the_iterator_is_no_failure() -> None:
    reply_texts = says("Your dog is called Biscuit.").stream(ASKED, Sampling())
    assert next(reply_texts)
    reply_texts.close()  # type: ignore[attr-defined]
    assert list(reply_texts) == []


def test_counts_grow_with_what_is_counted() -> None:
    model = says()
    longer = [*ASKED, Message("user", "word " * 500)]
    assert 0 < model.count(ASKED[:1]) < model.count(ASKED) < model.count(longer)
    assert 0 <= model.count_text("x") < model.count_text("word " * 500)


def test_the_window_is_the_providers_or_a_cautious_guess() -> None:
    known = FakeListChatModel(responses=[], profile={"max_input_tokens": 128_000})
    assert ProviderChatModel(known, "fake:x").window == 128_000
    assert says().window == 8192


def test_an_agent_remembers_with_a_provider_and_has_the_text_channel_only(open_memory: OpenMemory) -> None:
    with Agent(open_memory(), says("Nice.", "Your dog is called Biscuit.")) as agent:
        agent.ask("My dog is called Biscuit.", session="monday")
        reply = agent.ask("What is my dog called?", session="tuesday")
        assert reply.text == "Your dog is called Biscuit."
        assert [item.text for item in reply.recollections] == ["My dog is called Biscuit."]
        assert agent.conversation("wednesday").channel == "text"


def test_what_langchain_builds_is_used_under_the_name_given(langchain: ModuleType) -> None:
    asked: list[str] = []

    def init_chat_model(name: str) -> FakeListChatModel:
        asked.append(name)
        return FakeListChatModel(responses=["Biscuit"])

    langchain.init_chat_model = init_chat_model  # type: ignore[attr-defined]
    model = ProviderChatModel.from_string("ollama:llama3.2")
    assert asked == [model.name] == ["ollama:llama3.2"]
    assert "".join(model.stream(ASKED, Sampling())) == "Biscuit"


@pytest.mark.parametrize(
    "error", [ValueError("no provider foo"), ImportError("pip install langchain-ollama")]
)
def test_a_provider_that_refuses_is_a_model_error(langchain: ModuleType, error: Exception) -> None:
    def init_chat_model(name: str) -> FakeListChatModel:
        raise error

    langchain.init_chat_model = init_chat_model  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=f"The model ollama:llama3.2 cannot be set up: {error}"):
        ProviderChatModel.from_string("ollama:llama3.2")


def test_a_memory_inside_the_model_is_refused_for_a_provider(open_memory: OpenMemory) -> None:
    from memagent.agent.engine.conversation import Conversation, Settings

    with pytest.raises(SettingError, match="--channel text"):
        Conversation(open_memory(), says(), "monday", Settings(channel="model"))
