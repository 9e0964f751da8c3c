"""Chat models and embedders of LangChain, by provider string: ``ollama:llama3.2``, ``openai:text-embedding-3-small``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from memagent.agent.models.chat import Message, Sampling
from memagent.backends.errors import MissingExtraError, ModelError
from memagent.backends.protocol import Vectors

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel

_UNKNOWN_WINDOW = 8192
# The names that providers give to the length of a reply.
_LENGTHS = ("max_tokens", "max_output_tokens", "num_predict")


class ProviderChatModel:
    """A LangChain chat model behind the interface of ``ChatModel``.

    Each prompt, with its recollections, goes to the provider. It has the text channel only.

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
        return cls(_set_up("model", "chat_models", "init_chat_model", name), name)

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


class ProviderEmbedder:
    """A LangChain embedder. Every text that is remembered or asked for goes to the provider.

    Args:
        embeddings: any ``langchain_core.embeddings.Embeddings``.
        name: as after ``--embedder``.
    """

    max_tokens = _UNKNOWN_WINDOW

    def __init__(self, embeddings: Embeddings, name: str) -> None:
        self.name = name
        self.digest = f"provider {name}"
        self._embeddings = embeddings

    @classmethod
    def from_string(cls, name: str) -> ProviderEmbedder:
        """Build the embedder that ``provider:model`` names.

        Raises:
            MissingExtraError: langchain, or the provider's package, is not installed.
            ModelError: the provider refuses (no such provider, no key).
        """
        return cls(_set_up("embedder", "embeddings", "init_embeddings", name), name)

    @cached_property
    def dimension(self) -> int:
        """Length of a vector; the first question to the provider finds it out."""
        return len(self.embed(["length"])[0])

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 ``[texts, dimension]``, each row of length 1.

        Raises:
            ModelError: the provider failed, or its vectors are of no use.
        """
        if not texts:
            return self._none()
        return self._unit_rows(len(texts), lambda: self._embeddings.embed_documents(list(texts)))

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed questions, which some providers embed differently; see ``embed``."""
        if not texts:
            return self._none()
        return self._unit_rows(len(texts), lambda: [self._embeddings.embed_query(text) for text in texts])

    def _none(self) -> Vectors:
        return np.zeros((0, self.dimension), dtype=np.float32)

    def _unit_rows(self, count: int, ask: Callable[[], list[list[float]]]) -> Vectors:
        """Let the provider embed ``count`` texts, by ``ask``, and scale each vector to length 1.

        Raises:
            ModelError: the provider failed, or its vectors are of no use.
        """
        try:
            vectors = np.asarray(ask(), dtype=np.float64)  # squares of float32 overflow from 1e19
        except Exception as error:  # each provider raises its own kinds
            raise ModelError(f"{self.name} could not embed: {error}") from error
        if vectors.ndim != 2 or len(vectors) != count:
            shape = " by ".join(map(str, vectors.shape)) or "no"
            raise ModelError(
                f"{self.name} gave {shape} numbers for {count} texts; expected a vector for each."
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            raise ModelError(f"{self.name} gave a vector that is zero or not finite.")
        return np.asarray(vectors / lengths, dtype=np.float32)


def _set_up(kind: str, module: str, function: str, name: str) -> Any:
    """Return what a function of a module of LangChain makes of a provider string."""
    try:
        init = getattr(import_module(f"langchain.{module}"), function)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"The {kind} {name}", "langchain", "langchain") from error
    try:
        return init(name)
    except Exception as error:  # each provider raises its own kinds
        raise ModelError(f"The {kind} {name} cannot be set up: {error}") from error
