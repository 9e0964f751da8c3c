"""The models of memagent as LangChain chat models, with streaming, without tools; on request, with memory inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation, model_validator

from memagent.agent.engine.conversation import Settings
from memagent.agent.engine.prompt import Budget
from memagent.agent.engine.stops import until_stop
from memagent.agent.home import Home
from memagent.agent.integrations.langchain.generation import (
    Generation,
    plain_generation,
    prompt_message,
    remembering_generation,
)
from memagent.agent.integrations.langchain.scope import MemoryLender, lender_of, user_of
from memagent.agent.integrations.langchain.thread import SEQS
from memagent.agent.memory import Memory
from memagent.agent.memory.pool import MemoryPool
from memagent.agent.memory.prefix_scope import prefix_scope
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.chat import ChatModel, Sampling
from memagent.agent.models.loader import as_local
from memagent.agent.models.models import Models
from memagent.backends.errors import SettingError


@dataclass(frozen=True, slots=True)
class Attachment:
    """A memory that acts inside the model for one reply.

    Attributes:
        lender: lends the memory.
        user: whose memory.
        query: the message that is being answered.
        exclude: seqs of turns that are in the prompt already.
    """

    lender: MemoryLender
    user: str
    query: str
    exclude: frozenset[int]


class ChatMemagent(BaseChatModel):
    """A model of memagent as a LangChain chat model. It streams, reads text, and calls no tools.

        model = ChatMemagent(model="qwen2.5-coder-0.5b")
        model.invoke("Good morning!")

    With a memory and a user, what memory recalls for the last message acts inside the model, or is in the prompt. Nothing is
    stored, because LangChain also asks models for titles, summaries and second attempts: ``MemoryMiddleware`` stores, and
    ``Memory.remember``.

    Attributes:
        model: a name as after ``--model``, or a chat model; None: the pool's, or the default model.
        memory: a pool of memories, or one open memory. A pool also loads the model, so that it is loaded once.
        user: whose memory. With a pool and without a user, nothing is recalled.
        channel: how recollections reach the model, as in ``Settings``.
        limit: most recollections.
        max_tokens: the longest reply.
        temperature: 0 to 2; 0 takes the most likely token every time.
        seed: of the random generator, for temperatures above 0.
        stop: texts that end the reply; they are not part of it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Annotated[str | ChatModel | None, SkipValidation] = None
    memory: Annotated[Memory | MemoryLender | None, SkipValidation] = Field(
        default=None, exclude=True, repr=False
    )
    user: str | None = None
    channel: Literal["auto", "text", "model", "both"] = "auto"
    limit: int = Field(default=5, ge=0)
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int = 0
    stop: list[str] | None = None
    _attachment: Attachment | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _not_cached(self) -> Self:
        """Keep replies out of LangChain's cache where memory is in them: it would give them again after a forgetting."""
        if self.memory is not None and self.cache is None:
            self.cache = False
        return self

    def attached(self, attachment: Attachment) -> ChatMemagent:
        """Return this model with a memory inside it; messages are passed on as they are.

        Args:
            attachment: the memory, and what it is asked.
        """
        copy = self.model_copy(update={"memory": None, "model": self._chat(None), "cache": False})
        copy._attachment = attachment
        return copy

    def get_num_tokens(self, text: str) -> int:
        """Return how many tokens the model reads a text as. LangChain's own method would download GPT-2's tokenizer."""
        return self._chat(None).count_text(text)

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many tokens a prompt of these messages has; what memory adds is not counted.

        Raises:
            InputError: a message holds something else than text, or is of a tool.
        """
        return self._chat(None).count(tuple(map(prompt_message, messages)))

    def get_token_ids(self, text: str) -> list[int]:
        """Return a text's tokens by the model's own tokenizer.

        Raises:
            SettingError: the model does not run in this process.
        """
        model: Any = self._chat(None)
        if not hasattr(model, "tokenizer"):
            raise SettingError(
                f"{model.name} has no tokenizer in this process. get_num_tokens counts its tokens."
            )
        return list(model.tokenizer.encode(text, add_special_tokens=False))

    @property
    def _llm_type(self) -> str:
        return "memagent"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        names = ("user", "channel", "limit", "max_tokens", "temperature", "seed")
        return {"model": self._name(None), **{name: getattr(self, name) for name in names}}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="memagent",
            ls_model_name=self._name(kwargs.get("model")),
            ls_model_type="chat",
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )
        if stops := stop or self.stop:
            params["ls_stop"] = stops
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        model = self._chat(kwargs.get("model"))
        reply = ""
        with ExitStack() as stack:
            generation = self._begin(model, messages, self._sampling(kwargs), stack)
            for text in until_stop(generation.tokens, stop or self.stop or ()):
                reply += text
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
        prompt_tokens, reply_tokens = model.count(generation.messages), model.count_text(reply)
        metadata: dict[str, Any] = {"model_name": model.name}
        if generation.seqs is not None:
            metadata[SEQS] = list(generation.seqs)
        last = AIMessageChunk(
            content="",
            usage_metadata=UsageMetadata(
                input_tokens=prompt_tokens,
                output_tokens=reply_tokens,
                total_tokens=prompt_tokens + reply_tokens,
            ),
            response_metadata=metadata,
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)

    def _begin(
        self, model: ChatModel, messages: list[BaseMessage], sampling: Sampling, stack: ExitStack
    ) -> Generation:
        """Begin a reply that ends when the stack is closed."""
        if (attachment := self._attachment) is not None:
            memory = stack.enter_context(attachment.lender.memory(attachment.user))
            scope = prefix_scope(memory.journal)
            channel = memory.attached(as_local(model), attachment.query, exclude=attachment.exclude)
            return stack.enter_context(plain_generation(model, messages, sampling, channel, scope))
        if self.memory is None or (self.user is None and not isinstance(self.memory, Memory)):
            return stack.enter_context(plain_generation(model, messages, sampling))
        memory = stack.enter_context(lender_of(self.memory).memory(user_of(self.memory, self.user)))
        budget = Budget(recent=model.window)
        settings = Settings(self.channel, self.limit, budget, sampling)
        return stack.enter_context(remembering_generation(memory, model, messages, settings))

    def _sampling(self, options: dict[str, Any]) -> Sampling:
        values = {
            name: options.get(name, getattr(self, name)) for name in ("max_tokens", "temperature", "seed")
        }
        return Sampling(**values)

    def _name(self, override: str | None) -> str:
        model = override or self.model
        if model is None:
            return self.memory.model if isinstance(self.memory, MemoryPool) else DEFAULT_MODEL
        return model if isinstance(model, str) else model.name

    def _chat(self, override: str | None) -> ChatModel:
        """Return the chat model, loaded on first use.

        Raises:
            MemagentError: see ``load_chat_model``.
        """
        if override is None and self.model is not None and not isinstance(self.model, str):
            return self.model
        models = (
            self.memory.models
            if isinstance(self.memory, MemoryPool)
            else _models(Home.from_environment().models)
        )
        return models.chat(self._name(override))


@lru_cache(maxsize=1)
def _models(folder: Path) -> Models:
    """Return the models of a folder, so that each is loaded once in a process."""
    return Models.shared(folder)
