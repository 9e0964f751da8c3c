"""Chat models of LangChain, by provider string: ``ollama:llama3.2``, ``openai:gpt-5-mini``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from memagent.agent.models.chat import Message, Sampling
from memagent.backends.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_UNKNOWN_WINDOW = 8192
# The names that providers give to the length of a reply.
_LENGTHS = ("max_tokens", "max_output_tokens", "num_predict")


class ProviderChatModel:
    """A LangChain chat model behind the interface of ``ChatModel``. It has the text channel only.

    Args:
        model: any ``BaseChatModel``.
        name: as after ``--model``.
    """

    def __init__(self, model: BaseChatModel, name: str) -> None:
        self.name = name
        self._model = model
        profile = getattr(model, "profile", None) or {}
        self.window: int = profile.get("max_input_tokens") or _UNKNOWN_WINDOW

    @classmethod
    def from_string(cls, name: str) -> ProviderChatModel:
        """Build the model that ``provider:model`` names.

        Raises:
            MissingExtraError: langchain, or the provider's package, is not installed.
            ModelError: the provider refuses (no such provider, no key).
        """
        try:
            from langchain.chat_models import init_chat_model
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"The model {name}", "langchain", "langchain") from error
        try:
            return cls(init_chat_model(name), name)
        except Exception as error:  # each provider raises its own kinds
            raise ModelError(f"The model {name} cannot be set up: {error}") from error

    def count(self, messages: Sequence[Message]) -> int:
        """Estimate the prompt's length: providers do not share their tokenizers."""
        from langchain_core.messages.utils import count_tokens_approximately

        return count_tokens_approximately([(message.role, message.content) for message in messages])

    def count_text(self, text: str) -> int:
        """Estimate the length of a bare text in tokens."""
        return self.count([Message("user", text)])

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """Yield the reply as the provider streams it.

        Args:
            messages: the prompt, oldest first.
            sampling: how tokens are sampled, as far as the provider has options for it.

        Raises:
            ModelError: the provider failed.
        """
        try:
            model = self._model.model_copy(update=self._options(sampling))
            for chunk in model.stream([(message.role, message.content) for message in messages]):
                if chunk.text:
                    yield str(chunk.text)
        except Exception as error:  # each provider raises its own kinds
            raise ModelError(f"{self.name} could not answer: {error}") from error

    def _options(self, sampling: Sampling) -> dict[str, float]:
        """Return the sampling under this provider's option names; it decides where it has no option."""
        options: dict[str, float] = dict.fromkeys(_LENGTHS, sampling.max_tokens)
        if sampling.temperature:  # some models take no temperature but their own
            options["temperature"] = sampling.temperature
        return {name: value for name, value in options.items() if name in type(self._model).model_fields}
