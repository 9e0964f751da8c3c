"""The hyperparameters of a Titans language model."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from memagent.backends.neural.cache import CACHE_NAMES

VARIANTS = ("mac", "mag", "mal", "lmm")


class TitansConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The hyperparameters of a `TitansForCausalLM` (https://arxiv.org/abs/2501.00663).

    Attributes:
        variant: ``"mac"`` memory as context, ``"mag"`` memory as gate, ``"mal"`` memory as layer (section 4), or
            ``"lmm"``, the memory alone, without attention.
        vocab_size: Number of tokens; ids are 0 to ``vocab_size - 1``. 256 for bytes.
        hidden_size: Size of the residual stream; a multiple of ``2 * num_attention_heads``.
        intermediate_size: Hidden size of each block's feed-forward network.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Heads of the attention; each head also has a memory of its own.
        memory: False removes the memory from mac, mag and mal, which leaves a Transformer with the same attention.
        memory_depth: Layers of the memory's MLP, 1 to 4; 1 is a matrix.
        memory_width: Hidden size of this MLP, for each head; keys and values have ``hidden_size / num_attention_heads``.
            Unused at depth 1.
        memory_step: Upper bound of theta, above 0, in units of ``(1 - eta) / chunk_size``; see `NeuralMemory`.
        chunk_size: Tokens that share the weights at which the memory takes its gradients.
        window: Number of tokens that a token attends to, itself included (mag, mal), or length of a segment (mac).
        persistent_tokens: Number of learnable tokens before the sequence in every block (section 3.3), 0 or more.
        conv_width: Kernel size of the causal convolutions of queries, keys and values, in tokens.
        momentum, decay, convolution: False removes this part of the memory: ``eta = 0``, ``alpha = 0``, or no convolutions
            (the ablations of table 5).
        rope_theta: Base of the rotary positions.
        rms_norm_eps: Added to the mean square in RMS norms.
        initializer_range: Initial standard deviation of the output layer.
        use_cache: Whether the model returns a `TitansCache` when it is not training.

    Raises:
        ValueError: The variant is unknown, or a number is out of range.
    """

    model_type = "titans"
    keys_to_ignore_at_inference = list(CACHE_NAMES)  # noqa: RUF012 - transformers reads it on the class

    variant: str = "mac"
    vocab_size: int = 256
    hidden_size: int = 256
    intermediate_size: int = 688
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    memory: bool = True
    memory_depth: int = 2
    memory_width: int = 128
    memory_step: float = 2.0
    chunk_size: int = 16
    window: int = 64
    persistent_tokens: int = 4
    conv_width: int = 4
    momentum: bool = True
    decay: bool = True
    convolution: bool = True
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _check(self)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @property
    def head_size(self) -> int:
        """The size of a head's queries, keys and values."""
        return self.hidden_size // self.num_attention_heads


def _check(config: TitansConfig) -> None:
    if config.variant not in VARIANTS:
        raise ValueError(
            f"variant is expected to be one of {', '.join(VARIANTS)} rather than {config.variant!r}"
        )
    if config.variant == "lmm" and not config.memory:
        raise ValueError("variant lmm is the memory alone and needs memory=True")
    positive = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    for name in (*positive, "memory_width", "chunk_size", "window", "conv_width"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is expected to be at least 1 rather than {getattr(config, name)}")
    if config.hidden_size % (2 * config.num_attention_heads):
        raise ValueError(
            f"hidden_size is expected to be a multiple of twice num_attention_heads, {2 * config.num_attention_heads}, "
            f"rather than {config.hidden_size}"
        )
    if not 1 <= config.memory_depth <= 4:
        raise ValueError(f"memory_depth is expected to be 1 to 4 rather than {config.memory_depth}")
    if config.memory_step <= 0:
        raise ValueError(f"memory_step is expected to be above 0 rather than {config.memory_step}")
    if config.persistent_tokens < 0:
        raise ValueError(
            f"persistent_tokens is expected to be 0 or more rather than {config.persistent_tokens}"
        )
