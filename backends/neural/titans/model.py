"""Titans as Hugging Face models: embeddings, blocks, output layer, and generation from a cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from memagent.backends.neural.cache import CACHE_NAME, CACHE_NAMES, CachedGenerationMixin, resolve_cache
from memagent.backends.neural.titans.blocks import BLOCKS, Block
from memagent.backends.neural.titans.cache import BlockCache, TitansCache
from memagent.backends.neural.titans.config import TitansConfig
from memagent.backends.neural.titans.memory import CausalConvolution, Gates, InitialMemory


class TitansPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The base class of Titans models: names, storage and initialisation."""

    config_class = TitansConfig
    base_model_prefix = "model"
    _no_split_modules = ["MemoryAsContext", "MemoryAsGate", "MemoryAsLayer", "MemoryAlone"]  # noqa: RUF012
    _skip_keys_device_placement = list(CACHE_NAMES)  # noqa: RUF012
    _is_stateful = True  # a memory cannot undo a token

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Return False, so that `generate` leaves the cache to the model."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module to unit variance; the paper gives no initialisation. See `NeuralMemory` for the memory's.

        transformers calls this only for modules with parameters of their own. The functions of `init` keep loaded weights.
        """
        if isinstance(module, Gates):
            init.normal_(module.weight, std=module.in_features**-0.5)
            init.copy_(module.bias, module.initial_bias())
        elif isinstance(module, nn.Linear):
            is_output = module is getattr(self, "lm_head", None)
            init.normal_(
                module.weight, std=self.config.initializer_range if is_output else module.in_features**-0.5
            )
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, CausalConvolution) and module.weight is not None:
            init.uniform_(module.weight, -(module.width**-0.5), module.width**-0.5)
        elif isinstance(module, Block) and module.persistent is not None:
            init.normal_(module.persistent)
        elif isinstance(module, InitialMemory):
            for weight, std in zip(module, module.initial_deviations(), strict=True):
                init.normal_(weight, std=std)


class TitansModel(TitansPreTrainedModel):  # type: ignore[no-untyped-call]
    """Embeddings and blocks, without an output layer."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(BLOCKS[config.variant](config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: TitansCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: TitansCache | None = None,
    ) -> BaseModelOutputWithPast:
        """Read tokens.

        Args:
            input_ids: ``[batch, length]``, the tokens after those that the cache has read.
            attention_mask: None or all ones: a memory reads every token, so there is no padding.
            cache: The state of the sequence so far, which is updated. None begins a sequence.
            inputs_embeds: ``[batch, length, hidden]``, instead of ``input_ids``.
            use_cache: Whether to return a cache. None: as configured, and not in training.
            output_hidden_states: Whether to return the residual stream before each block and after the last norm. None: as
                configured.
            past_key_values: The old name of ``cache``.

        Returns:
            ``last_hidden_state``, ``[batch, length, hidden]``, the cache (`CACHE_NAME`) and ``hidden_states``; with
            ``return_dict=False`` a tuple of those that are not None.

        Raises:
            TypeError: The cache is not a `TitansCache`, or passed under both names; an argument is not listed here.
            ValueError: The mask has padding, the cache belongs to another model, or both or none of ``input_ids`` and
                ``inputs_embeds`` are passed.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is expected, not both or none")
        check_mask(attention_mask)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = resolve_cache(cache, past_key_values)
        if cache is None:
            cache = TitansCache()
        check_cache(cache, len(self.layers))
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states, block_caches = [], []
        for block, block_cache in zip(
            self.layers, cache.blocks or [BlockCache()] * len(self.layers), strict=True
        ):
            hidden_states.append(hidden)
            hidden, new_block_cache = block(hidden, block_cache)
            block_caches.append(new_block_cache)
        hidden = self.norm(hidden)
        cache.blocks, cache.seen_tokens = block_caches, cache.seen_tokens + hidden.shape[1]
        returned_cache: dict[str, Any] = {CACHE_NAME: cache if use_cache else None}
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            hidden_states=(*hidden_states, hidden) if output_hidden_states else None,
            **returned_cache,
        )


class TitansForCausalLM(TitansPreTrainedModel, CachedGenerationMixin):  # type: ignore[no-untyped-call]
    """A Titans language model; `generate` takes constant memory for each token."""

    accepts_loss_kwargs = True  # `Trainer` passes num_items_in_batch

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.model = TitansModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: TitansCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
        past_key_values: TitansCache | None = None,
    ) -> CausalLMOutputWithPast:
        """Read tokens and predict each next one.

        Args:
            input_ids: ``[batch, length]``, the tokens after those that the cache has read.
            attention_mask: None or all ones.
            cache: The state of the sequence so far, which is updated. None begins a sequence.
            inputs_embeds: ``[batch, length, hidden]``, instead of ``input_ids``.
            labels: ``[batch, length]``, usually ``input_ids``: the loss compares the prediction at a token with the next
                label. -100 is ignored.
            use_cache: Whether to return a cache; see `TitansModel.forward`.
            output_hidden_states: Whether to return them; see `TitansModel.forward`.
            logits_to_keep: The number of last tokens to return logits for; 0 for all.
            num_items_in_batch: The number of labels in all steps of a gradient accumulation. The loss is then the sum over
                this call's labels, divided by this number.
            past_key_values: The old name of ``cache``.

        Returns:
            ``logits``, ``[batch, length, vocab_size]``; ``loss``, in nats per token, with labels; the cache (`CACHE_NAME`) and
            ``hidden_states``; with ``return_dict=False`` a tuple of those that are not None.

        Raises:
            TypeError, ValueError: See `TitansModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            cache=resolve_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits, labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
        )


def check_mask(attention_mask: Tensor | None) -> None:
    """Raise ValueError if the mask has padding."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError(
            "attention_mask is expected to be all ones, because a memory reads padding too; "
            "batch prompts of equal length, or pass one at a time"
        )


def check_cache(cache: object, blocks: int) -> None:
    """Raise TypeError unless the cache is a `TitansCache`, ValueError unless it is empty or has this number of blocks."""
    if not isinstance(cache, TitansCache):
        raise TypeError(f"the cache is expected to be a TitansCache rather than a {type(cache).__name__}")
    if len(cache.blocks) not in (0, blocks):
        raise ValueError(f"the cache is expected to be of {blocks} blocks rather than {len(cache.blocks)}")
