"""Tiny random models as ``LocalChatModel`` loads them, in float32, and what they read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.local import LocalChatModel
from memagent.agent.models.prefix_cache import PREFIX_SCOPE, PrefixScope
from tests.backends.rope_map import tiny

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
ANA = PrefixScope("journal", "ana", 0)


def local_model(folder: Path, model: Any) -> LocalChatModel:
    """Save a model of transformers with a tokenizer and a chat template, and load it.

    Args:
        folder: where the files go.
        model: with a vocabulary of at least 1,000 tokens.
    """
    tokenizer = tiny.tokenizer()
    # An end that no token has: replies are as long as they are allowed to be.
    model.generation_config.eos_token_id = 10**6
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    local = LocalChatModel(folder, name="tiny", digest="tiny llama 0")
    local.tokenizer.chat_template = CHAT
    local.model.float()
    return local


@contextmanager
def tokens_read(local: LocalChatModel) -> Iterator[list[int]]:
    """Yield a list of the token ids that the model reads, which grows with every forward pass."""
    ids: list[int] = []
    hook = local.model.base_model.register_forward_pre_hook(
        lambda module, positional, named: ids.extend(named["input_ids"][0].tolist()), with_kwargs=True
    )
    try:
        yield ids
    finally:
        hook.remove()


def reply(
    local: LocalChatModel,
    messages: Sequence[Message],
    scope: PrefixScope | None = ANA,
    sampling: Sampling = Sampling(max_tokens=12),  # noqa: B008 - frozen
) -> str:
    """Return the whole reply to a prompt."""
    token = PREFIX_SCOPE.set(scope)
    try:
        return "".join(local.stream(messages, sampling))
    finally:
        PREFIX_SCOPE.reset(token)


def prompt(turns: int, message: str = "What is it called?") -> list[Message]:
    """Return a system prompt, a history of some turns, and a message."""
    texts = [f"Sentence {number} says that the dog of house {number} barks." for number in range(turns)]
    history = [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)]
    return [Message("system", "Be brief."), *history, Message("user", message)]
