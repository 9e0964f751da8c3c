"""Under which scope a chat model of LangChain keeps what it reads: the user's, and none where notes would be kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from memagent.agent.integrations.langchain.chat_model import Attachment
from memagent.agent.memory.prefix_scope import prefix_scope
from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.prefix_cache import PREFIX_SCOPE, PrefixScope
from memagent.langchain import ChatMemagent, MemoryPool
from tests.agent.conversing import LocalScriptedModel, WithChannel
from tests.agent.integrations.langchain.agents import FACT
from tests.agent.integrations.langchain.test_chat_model import pool_with_channel  # noqa: F401


class ScopeModel(LocalScriptedModel):
    """Records the scope that it answers in."""

    def __init__(self) -> None:
        super().__init__([])
        self.scopes: list[PrefixScope | None] = []

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        self.scopes.append(PREFIX_SCOPE.get())
        yield "yes"


def scope_of(pool: MemoryPool, user: str) -> PrefixScope:
    with pool.memory(user) as memory:
        return prefix_scope(memory.journal)


def test_a_reply_with_memory_is_in_the_scope_of_its_user(pool: MemoryPool) -> None:
    model = ScopeModel()
    for user in ("ana", "bob"):
        ChatMemagent(model=model, memory=pool, user=user).invoke("hello")
    with pool.memory("ana") as memory:
        memory.forget([memory.remember("monday", "user", FACT).seq])
    ChatMemagent(model=model, memory=pool, user="ana").invoke("hello")
    assert [scope and (scope.user, scope.forgetting) for scope in model.scopes] == [
        ("ana", 0),
        ("bob", 0),
        ("ana", 1),
    ]
    assert model.scopes[2] == scope_of(pool, "ana")


def test_without_a_user_nothing_is_kept(pool: MemoryPool) -> None:
    model = ScopeModel()
    ChatMemagent(model=model).invoke("hello")
    ChatMemagent(model=model, memory=pool).invoke("hello")
    assert model.scopes == [None, None]
    assert PREFIX_SCOPE.get() is None


def test_an_attached_reply_is_in_the_scope_of_its_user_if_the_user_speaks_last(
    pool_with_channel: MemoryPool,  # noqa: F811
) -> None:
    model = ScopeModel()
    attachment = Attachment(pool_with_channel, "ana", "hello", frozenset())
    chat = ChatMemagent(model=model).attached(attachment)
    messages = [SystemMessage("Be kind."), HumanMessage("<memory> notes </memory> hello")]
    chat.invoke(messages)
    chat.invoke([*messages, AIMessage("yes")])
    assert model.scopes == [scope_of(pool_with_channel, "ana"), None]
    assert WithChannel.log == ["attached to hello", "detached"] * 2
