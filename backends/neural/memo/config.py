"""The hyperparameters of a MeMo language model."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from memagent.backends.neural.cache import CACHE_NAMES
from memagent.backends.neural.memo.settings import MeMoSettings


class MeMoConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The hyperparameters of a `MeMoForCausalLM` (https://arxiv.org/abs/2502.12851).

    Attributes:
        vocab_size: Number of tokens; ids are 0 to ``vocab_size - 1``.
        hidden_size: d of the paper: a multiple of 8 and of ``num_attention_heads``.
        num_attention_heads: h of the paper.
        num_hidden_layers: l of the paper. The longest window has ``num_attention_heads ** num_hidden_layers`` tokens.
        stride, composition, seed: See `MeMoSettings`.
        logit_scale: The logit of a token that one layer speaks for, above 0; tokens that were never stored have logit 0. At 20, a
            token of weight 1 has nearly all probability among 100,000.
        stored_windows: Number of windows in the stored state, written by ``save_pretrained``.
        state_digest: SHA-256 of the stored state, written by ``save_pretrained``; empty if there is none.
        use_cache: Whether the model returns a `MeMoCache` when it is not training.

    Raises:
        ValueError: A number is out of range, or the composition is unknown.
    """

    model_type = "memo"
    keys_to_ignore_at_inference = list(CACHE_NAMES)  # noqa: RUF012 - transformers reads it on the class

    vocab_size: int = 256
    hidden_size: int = 1024
    num_attention_heads: int = 4
    num_hidden_layers: int = 2
    stride: int = 1
    composition: str = "bound"
    seed: int = 0
    logit_scale: float = 20.0
    stored_windows: int = 0
    state_digest: str = ""
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _ = self.memory_settings  # checks the numbers
        if self.logit_scale <= 0:
            raise ValueError(f"logit_scale is expected to be above 0 rather than {self.logit_scale}")
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @property
    def memory_settings(self) -> MeMoSettings:
        """The settings of the model's memory."""
        return MeMoSettings(
            vocab_size=self.vocab_size,
            dim=self.hidden_size,
            heads=self.num_attention_heads,
            layers=self.num_hidden_layers,
            stride=self.stride,
            composition=self.composition,
            seed=self.seed,
        )
