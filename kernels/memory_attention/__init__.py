"""Attention over local context and memory in one softmax, with queries of a different rotation for each.

Keys in memory are stored without rotary positions, that is, at position 0. The memory queries are the local queries
rotated to one fixed offset instead of their positions, so every memory key is at that distance (InfLLM,
https://arxiv.org/abs/2402.04617). The softmax over both weighs context against memory.
"""

from __future__ import annotations

from torch import Tensor, bfloat16, float64

from memagent.kernels.memory_attention import eager
from memagent.kernels.memory_attention.eager import merge, needs_gradient
from memagent.kernels.switch import use_fused

__all__ = ["memory_attention", "merge"]


def memory_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory_query: Tensor,
    memory_key: Tensor,
    memory_value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scaling: float,
    top_k: int | None = None,
    memory_bias: Tensor | None = None,
) -> Tensor:
    """One softmax over local and memory scores, times both values.

    The scores are ``[query . key * scaling + mask, memory_query . memory_key * scaling + memory_bias]``.

    Args:
        query: ``[batch, heads, q_len, head_dim]``, rotated to the true positions.
        key: ``[batch, kv_heads, kv_len, head_dim]``, rotated. ``heads`` is a multiple of ``kv_heads``: the
            query heads ``h * group .. h * group + group - 1`` share key head ``h``, as in transformers' ``repeat_kv``.
        value: Like ``key``.
        memory_query: Like ``query``: the same queries, all rotated to one fixed offset.
        memory_key: ``[batch or 1, kv_heads, memory_len, head_dim]``, unrotated. ``memory_len`` may be 0.
        memory_value: Like ``memory_key``.
        mask: Boolean (true: may attend) or additive, broadcastable to ``[batch, heads, q_len, kv_len]``. It
            is for the local keys; every query sees all of the memory but what ``memory_bias`` hides.
        is_causal: Query ``i`` sees local keys up to ``kv_len - q_len + i``, and of these what the mask allows.
        scaling: What scores are multiplied with, usually ``head_dim ** -0.5``.
        top_k: Each query of each head keeps only so many memory keys, those with the largest scores, the
            bias included; which of several equal ones is open. None: all.
        memory_bias: ``[memory_len]`` shared by all samples, or ``[batch, memory_len]`` for each its own, float32,
            in natural-log units: added after the scaling to every score of that memory key, for all heads and
            queries. The log of a weight lets a key count as that many equal ones; -inf, the log of 0, hides it.
            A memory shared by the batch may have a bias per sample. None: zeros.

    Returns:
        ``[batch, heads, q_len, head_dim]`` in the query's type. A query that sees no key at all gets zeros.

    Raises:
        ValueError: Shapes that do not fit each other, a ``top_k`` below 1, or a ``memory_bias`` that is
            not floating.
    """
    _check_shapes(query, key, value, memory_query, memory_key, memory_value)
    _check_options(query, key, mask, is_causal, top_k)
    _check_memory_bias(query, memory_key, memory_bias)
    tensors = (query, key, value, memory_query, memory_key, memory_value)
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
    if top_k is not None and top_k >= memory_key.shape[2]:
        top_k = None
    # On a processor Triton's interpreter runs, which multiplies bfloat16's bits as if they were integers.
    supported = query.dtype not in ((float64,) if query.is_cuda else (float64, bfloat16)) and top_k is None
    if supported and use_fused(query) and not needs_gradient(*tensors, mask, memory_bias):
        from memagent.kernels.memory_attention import fused

        return fused.memory_attention(
            *tensors, mask=mask, is_causal=is_causal, scaling=scaling, memory_bias=memory_bias
        )
    return eager.memory_attention(
        *tensors, mask=mask, is_causal=is_causal, scaling=scaling, top_k=top_k, memory_bias=memory_bias
    )


def _check_shapes(
    query: Tensor, key: Tensor, value: Tensor, memory_query: Tensor, memory_key: Tensor, memory_value: Tensor
) -> None:
    if query.dim() != 4 or key.dim() != 4:
        raise ValueError(
            "query is expected to be [batch, heads, q_len, head_dim] and key [batch, kv_heads, kv_len, head_dim], "
            f"rather than {list(query.shape)} and {list(key.shape)}"
        )
    batch, heads, _, head_dim = query.shape
    kv_heads, kv_len = key.shape[1:3]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"heads of query are expected to be a multiple of {kv_heads}, those of key, rather than {heads}"
        )
    memory = tuple(memory_key.shape) if memory_key.dim() == 4 else (batch, kv_heads, "memory_len", head_dim)
    memory_batch = 1 if memory[0] == 1 else batch
    for name, tensor, expected in (
        ("key", key, (batch, kv_heads, kv_len, head_dim)),
        ("value", value, (batch, kv_heads, kv_len, head_dim)),
        ("memory_query", memory_query, tuple(query.shape)),
        ("memory_key", memory_key, (memory_batch, kv_heads, memory[2], head_dim)),
        ("memory_value", memory_value, (memory_batch, kv_heads, memory[2], head_dim)),
    ):
        if tuple(tensor.shape) != expected:
            shape = f"[{', '.join(map(str, expected))}]"
            raise ValueError(f"{name} is expected to be {shape} rather than {list(tensor.shape)}")


def _check_options(
    query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, top_k: int | None
) -> None:
    full = (*query.shape[:3], key.shape[2])
    if mask is not None:
        # Sizes are compared from the last one on, as in broadcasting; leading ones may be missing.
        fits = all(size in (1, of) for size, of in zip(reversed(mask.shape), reversed(full), strict=False))
        if mask.dim() > 4 or not fits:
            raise ValueError(
                f"mask is expected to broadcast to {list(full)} rather than be {list(mask.shape)}"
            )
    if is_causal and full[2] > full[3]:
        raise ValueError(
            f"q_len of a causal query is expected to be at most kv_len, {full[3]}, rather than {full[2]}"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is expected to be None or at least 1 rather than {top_k}")


def _check_memory_bias(query: Tensor, memory_key: Tensor, memory_bias: Tensor | None) -> None:
    if memory_bias is None:
        return
    batch, memory_len = query.shape[0], memory_key.shape[2]
    if list(memory_bias.shape) not in ([memory_len], [1, memory_len], [batch, memory_len]):
        raise ValueError(
            f"memory_bias is expected to be [{memory_len}] or [{batch}, {memory_len}], one number for each memory key, "
            f"rather than {list(memory_bias.shape)}"
        )
    if not memory_bias.is_floating_point():  # what a boolean mask would add is not defined
        raise ValueError(f"memory_bias is expected to be float32, logs of weights, not {memory_bias.dtype}")
