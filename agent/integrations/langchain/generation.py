"""One reply of a chat model: the prompt from LangChain's messages, the memory in it or inside the model, and its tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC
from typing import cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage

from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.engine.prompt import SYSTEM, SYSTEM_MODEL_CHANNEL, assemble
from memagent.agent.memory import AttachedMemory, Memory
from memagent.agent.memory.prefix_scope import prefix_scope
from memagent.agent.models.chat import ChatModel, Message, Sampling
from memagent.agent.models.prefix_cache import PREFIX_SCOPE, PrefixScope
from memagent.backends.errors import InputError
from memagent.backends.protocol import LocalModel
from memagent.backends.records import Turn

_TEXT_BLOCKS = frozenset({"text", "reasoning", "thinking"})
_RECENT_TURNS = 64


@dataclass(frozen=True, slots=True)
class Generation:
    """A prompt that a model is about to answer.

    Attributes:
        messages: the prompt.
        seqs: every turn of the journal that memory brings into the reply; None: no memory takes part.
        tokens: the reply, as the model streams it.
    """

    messages: tuple[Message, ...]
    seqs: tuple[int, ...] | None
    tokens: Iterator[str]


@contextmanager
def plain_generation(
    model: ChatModel,
    messages: Sequence[BaseMessage],
    sampling: Sampling,
    channel: AbstractContextManager[AttachedMemory] | None = None,
    scope: PrefixScope | None = None,
) -> Iterator[Generation]:
    """Begin a reply to messages as they are.

    Args:
        model: any chat model.
        messages: of LangChain.
        sampling: how the reply is sampled.
        channel: a memory that acts inside the model.
        scope: under which the model keeps what it reads; None: it keeps nothing.

    Raises:
        InputError: the messages do not fit the model's window, or hold something else than text.
    """
    prompt = tuple(map(prompt_message, messages))
    if hasattr(model, "tokenizer"):
        _check_length(model, prompt, sampling)
    with _generation(model, prompt, sampling, None, channel, scope) as generation:
        yield generation


@contextmanager
def remembering_generation(
    memory: Memory, model: ChatModel, messages: Sequence[BaseMessage], settings: Settings
) -> Iterator[Generation]:
    """Begin a reply to the last message, with what memory recalls for it, as a ``Conversation`` does; store nothing.

    The recent messages are LangChain's. The oldest are left out where they do not fit the window.

    Args:
        memory: the user's memory.
        model: any chat model.
        messages: of LangChain.
        settings: of the conversation; a system message takes the place of its system prompt.

    Raises:
        InputError: the last message is not by the user, or does not fit the window; or a message holds something else
            than text.
        SettingError: backend or model cannot use the channel of the settings.
    """
    prompt = [prompt_message(message) for message in messages]
    system = "\n\n".join(message.content for message in prompt if message.role == "system")
    *history, last = [message for message in prompt if message.role != "system"] or [Message("system", "")]
    if last.role != "user":
        raise InputError("Memory recalls for a message by the user, and the last message is none.")
    scope = prefix_scope(memory.journal)
    channel = Conversation(memory, model, "langchain", settings).channel
    pinned = memory.pinned()
    given_texts = {message.content.strip() for message in prompt}
    if channel == "model":
        memory.catch_up()
        recollections = []
    else:
        pinned_texts = {item.text for item in pinned}
        candidates = memory.recall(last.content, limit=settings.limit + len(prompt) + len(pinned))
        recollections = [item for item in candidates if item.text.strip() not in given_texts | pinned_texts]
    now = settings.clock()
    recent = [Turn(0, "", "", message.role, message.content, now.astimezone(UTC)) for message in history]
    default_system = SYSTEM_MODEL_CHANNEL if channel == "model" and not pinned else SYSTEM
    assembled = assemble(
        model,
        last.content,
        recollections[: settings.limit],
        recent,
        settings.budget,
        settings.sampling.max_tokens,
        now,
        system or default_system,
        pinned,
    )
    seqs = {seq for item in assembled.recollections for seq in item.seqs}
    attached = None
    if channel != "text":
        recent_turns = memory.journal.recent(_RECENT_TURNS)
        given_seqs = {turn.seq for turn in recent_turns if turn.text.strip() in given_texts}
        attached = memory.attached(cast(LocalModel, model), last.content, exclude=seqs | given_seqs)
    with _generation(model, assembled.messages, settings.sampling, seqs, attached, scope) as generation:
        yield generation


def prompt_message(message: BaseMessage) -> Message:
    """Return a message of LangChain as one of a prompt.

    Args:
        message: by the user, by the model, or of the system.

    Raises:
        InputError: it is of a tool, or holds an image, sound or file.
    """
    if isinstance(message, SystemMessage) or (isinstance(message, ChatMessage) and message.role == "system"):
        role = "system"
    elif isinstance(message, HumanMessage):
        role = "user"
    elif isinstance(message, AIMessage):
        role = "assistant"
    else:
        raise InputError(f"ChatMemagent calls no tools and takes no message of type {message.type!r}.")
    for block in message.content if isinstance(message.content, list) else ():
        kind = block.get("type") if isinstance(block, dict) else "text"
        if kind not in _TEXT_BLOCKS and role != "assistant":
            raise InputError(f"ChatMemagent reads text only, and a message holds content of type {kind!r}.")
    return Message(role, str(message.text))


@contextmanager
def _generation(
    model: ChatModel,
    prompt: Sequence[Message],
    sampling: Sampling,
    seqs: Collection[int] | None,
    channel: AbstractContextManager[AttachedMemory] | None,
    scope: PrefixScope | None,
) -> Iterator[Generation]:
    """Open the model channel in a context of its own, so that other replies of the same model do not use it."""
    context = copy_context()
    # Notes are in the user's last message: if another one follows it, they are in what the model would keep.
    context.run(PREFIX_SCOPE.set, scope if prompt and prompt[-1].role == "user" else None)
    with ExitStack() as stack:
        all_seqs = None if seqs is None else frozenset(seqs)
        if channel is not None:
            inside = ExitStack()
            stack.callback(context.run, inside.close)
            attached = context.run(inside.enter_context, channel)
            all_seqs = attached.seqs.union(all_seqs or (), *(item.seqs for item in attached.recollections))
        tokens = model.stream(prompt, sampling)
        stack.callback(getattr(tokens, "close", lambda: None))

        def stream() -> Iterator[str]:
            while (token := context.run(next, tokens, None)) is not None:
                yield token

        yield Generation(tuple(prompt), None if all_seqs is None else tuple(sorted(all_seqs)), stream())


def _check_length(model: ChatModel, prompt: Sequence[Message], sampling: Sampling) -> None:
    tokens, room = model.count(prompt), model.window - sampling.max_tokens
    if tokens > room:
        raise InputError(
            f"The messages take {tokens:,} tokens; {model.name} has room for {room:,} beside a reply of up to "
            f"{sampling.max_tokens:,}. Trim them, or ask for a shorter reply with max_tokens."
        )
