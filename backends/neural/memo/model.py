"""MeMo as a Hugging Face language model, whose only weights are what it has read.

Importing this module registers the model type ``memo``, so that ``AutoModelForCausalLM.from_pretrained`` loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from memagent.backends.neural.cache import CACHE_NAME, CACHE_NAMES, CachedGenerationMixin, resolve_cache
from memagent.backends.neural.memo.cache import MeMoCache
from memagent.backends.neural.memo.config import MeMoConfig
from memagent.backends.neural.memo.memory import MeMoMemory, Tokens
from memagent.backends.neural.memo.regeneration import Explanation, explain
from memagent.backends.neural.memo.storage import StateError, digest, verify


class MeMoForCausalLM(PreTrainedModel, CachedGenerationMixin):  # type: ignore[no-untyped-call]
    """A language model that predicts what it has memorised (https://arxiv.org/abs/2502.12851).

    It has no trainable parameters: `memorise` and `forget` change it. Logits are the weights of stored tokens, times
    ``config.logit_scale``; tokens that were never stored have logit 0.

    Attributes:
        memory: The matrices and counts.
    """

    config_class = MeMoConfig
    base_model_prefix = "memory"
    main_input_name = "input_ids"
    accepts_loss_kwargs = True  # `Trainer` passes num_items_in_batch
    _skip_keys_device_placement = list(CACHE_NAMES)  # noqa: RUF012
    _is_stateful = True  # assisted generation would have to undo tokens

    def __init__(self, config: MeMoConfig) -> None:
        super().__init__(config)
        self.memory = MeMoMemory(config.memory_settings, config.stored_windows)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Return False, so that `generate` leaves the cache to the model."""
        return False

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: an empty memory is the initial state."""

    @property
    def device(self) -> torch.device:
        """The device of the matrices."""
        return self.memory.last.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the logits."""
        return torch.float32

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model, as `transformers.PreTrainedModel.from_pretrained` does, and check every byte of its state.

        Args:
            *args: See `transformers.PreTrainedModel.from_pretrained`.
            **kwargs: See `transformers.PreTrainedModel.from_pretrained`.

        Returns:
            See `transformers.PreTrainedModel.from_pretrained`.

        Raises:
            StateError: The stored state is damaged or incomplete.
        """
        origin = str(args[0] if args else kwargs.get("pretrained_model_name_or_path"))
        wants_info = kwargs.pop("output_loading_info", False)
        try:
            loaded: Any = super().from_pretrained(*args, **kwargs, output_loading_info=True)
        except (SafetensorError, RuntimeError) as error:
            raise StateError(f"{origin} is damaged: {error}") from error
        model, info = loaded
        # transformers fills a buffer that the file lacks with whatever the allocator left in RAM: the digest can fit.
        if lacking := sorted(info["missing_keys"]):
            raise StateError(f"{origin} is damaged: it lacks {', '.join(lacking)}")
        verify(model.memory, model.config.state_digest, origin)
        return (model, info) if wants_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Store the model, as `transformers.PreTrainedModel.save_pretrained` does. The same state gives the same bytes.

        Args:
            *args: See `transformers.PreTrainedModel.save_pretrained`.
            **kwargs: See `transformers.PreTrainedModel.save_pretrained`.
        """
        self.config.state_digest = digest(self.memory)
        self.config.stored_windows = len(self.memory.hashes)
        super().save_pretrained(*args, **kwargs)

    def memorise(self, texts: Sequence[Tokens]) -> Self:
        """Store texts; see `MeMoMemory.memorise`."""
        self.memory.memorise(texts)
        return self

    def forget(self, texts: Sequence[Tokens]) -> Self:
        """Remove texts exactly; see `MeMoMemory.forget`."""
        self.memory.forget(texts)
        return self

    def edit(self, text: Tokens, old: Tokens, new: Tokens) -> list[int]:
        """Replace a part of a stored text; see `MeMoMemory.edit`."""
        return self.memory.edit(text, old, new)

    def explain(self, ids: Tokens) -> list[Explanation]:
        """Say for each token of a text which layers spoke for it, with what weight and matched length.

        Args:
            ids: A prompt and what was generated after it.

        Returns:
            One explanation for each token; see `memagent.backends.neural.memo.explain`.
        """
        return explain(self.memory, ids)

    @can_return_tuple  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: MeMoCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
        past_key_values: MeMoCache | None = None,
    ) -> CausalLMOutputWithPast:
        """Read tokens and predict each next one.

        Args:
            input_ids: ``[batch, length]``, the tokens after those that the cache has read.
            attention_mask: ``[batch, length]``, or with the length that the cache has read before it: 0 for padding, on either
                side, which is not read. Logits after padding are 0.
            cache: The state of the sequences so far, which is updated. None begins sequences.
            labels: ``[batch, length]``, usually ``input_ids``: the loss compares the prediction at a token with the next
                label. -100 is ignored. The loss has no gradient.
            use_cache: Whether to return a cache. None: as configured, and not in training.
            logits_to_keep: The number of last tokens to return logits for; 0 for all.
            num_items_in_batch: The number of labels in all steps of a gradient accumulation. The loss is then the sum over
                this call's labels, divided by this number.
            past_key_values: The old name of ``cache``.

        Returns:
            ``logits``, ``[batch, length, vocab_size]``; ``loss``, in nats per token, with labels; and the cache
            (`CACHE_NAME`); with ``return_dict=False`` a tuple of those that are not None.

        Raises:
            TypeError: The cache is not a `MeMoCache`, or passed under both names; an argument is not listed here.
            ValueError: The mask or the cache belongs to another batch.
        """
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        cache = resolve_cache(cache, past_key_values)
        if cache is None:
            cache = MeMoCache()
        check_cache(cache, len(input_ids))
        kept = _kept(input_ids, attention_mask)
        first = input_ids.shape[1] - logits_to_keep if logits_to_keep else 0
        logits = self._logits(input_ids, kept, cache, max(first, 0))
        cache.seen_tokens += input_ids.shape[1]
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits, labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        returned_cache: dict[str, Any] = {CACHE_NAME: cache if use_cache else None}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **returned_cache)

    def _logits(self, input_ids: Tensor, kept: Tensor, cache: MeMoCache, first: int) -> Tensor:
        """Return the logits of columns from ``first`` on, and add the tokens to the cache."""
        contexts = cache.contexts or [[] for _ in input_ids]
        contexts = [
            [*context, *row[mask].tolist()]
            for context, row, mask in zip(contexts, input_ids, kept, strict=True)
        ]
        cache.contexts = [context[-self.memory.settings.window :] for context in contexts]
        logits = torch.zeros(*input_ids[:, first:].shape, self.config.vocab_size, device=self.device)
        wanted = kept[:, first:]
        if self.memory.pairs and bool(wanted.any()):
            reading = self.memory.reading
            # One sequence at a time bounds the size of keys and weights.
            for row, (context, columns) in enumerate(zip(contexts, wanted, strict=True)):
                places = columns.nonzero()[:, 0]
                if len(places):
                    keys, _ = self.memory.query_keys([context], [len(places)])
                    weights = reading.weights(keys) * self.config.logit_scale
                    logits[row, places[:, None], reading.tokens.to(self.device)] = weights
        return logits


def check_cache(cache: object, batch: int) -> None:
    """Raise TypeError unless the cache is a `MeMoCache`, ValueError unless it is empty or of this batch size."""
    if not isinstance(cache, MeMoCache):
        raise TypeError(f"the cache is expected to be a MeMoCache rather than a {type(cache).__name__}")
    if len(cache.contexts) not in (0, batch):
        raise ValueError(
            f"the cache is expected to be of {batch} sequences rather than {len(cache.contexts)}"
        )


def _kept(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return which tokens are no padding, ``[batch, length]`` bool."""
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    mask = attention_mask[:, -input_ids.shape[1] :].bool()
    if mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask is expected to be {list(input_ids.shape)}, or longer by what the cache has read, rather than "
            f"{list(attention_mask.shape)}"
        )
    return mask


AutoConfig.register(MeMoConfig.model_type, MeMoConfig)
AutoModelForCausalLM.register(MeMoConfig, MeMoForCausalLM)
