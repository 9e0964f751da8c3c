"""Memory attention in plain PyTorch: an output and a log-sum-exp for each set of keys, merged exactly.

- The sets are the keys before those of the queries' own tokens, the keys of these tokens, and the memory.
- Without gradients on a CPU, PyTorch's flash attention computes each set in one call and returns its log-sum-exp.
- Otherwise scores are materialised, for as many queries at a time as `BUDGET` allows.
- With ``top_k`` only the values of the memory keys that are kept are gathered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BUDGET = 2**24  # numbers that a temporary may hold when queries are taken in blocks: 64 MiB of float32

Part = tuple[Tensor, Tensor]  # output [batch, heads, q_len, head_dim], log-sum-exp [batch, heads, q_len]


def merge(outputs: Sequence[Tensor], logsumexps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Join attention outputs over disjoint sets of keys into the one over all of them, exactly.

    The rule of the online softmax (Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867), which
    FlashAttention (Dao et al. 2022, https://arxiv.org/abs/2205.14135) applies to blocks of keys and InfLLM to
    context and memory: ``sum_i exp(lse_i - lse) output_i`` with ``lse = log sum_i exp(lse_i)``.

    Args:
        outputs: At least one, each ``[..., head_dim]``: weighted means of the values of one set.
        logsumexps: As many, each ``[...]``: log of the softmax's denominator, -inf where no key was seen.

    Returns:
        Output ``[..., head_dim]`` and log-sum-exp ``[...]``, at least in float32. Where no part
        saw a key, the output is a mean of the parts' and the log-sum-exp -inf.
    """
    if not outputs or len(outputs) != len(logsumexps):
        raise ValueError(
            "at least one output and as many log-sum-exps are expected, "
            f"not {len(outputs)} and {len(logsumexps)}"
        )
    total = logsumexps[0].to(torch.promote_types(logsumexps[0].dtype, torch.float32))
    merged = outputs[0].to(total.dtype)
    for output, logsumexp in zip(outputs[1:], logsumexps[1:], strict=True):
        # exp(b) / (exp(a) + exp(b)) is sigmoid(b - a), and it is NaN only where both are -inf.
        weight = torch.sigmoid(logsumexp - total).nan_to_num(0.5)
        merged = torch.lerp(merged, output.to(total.dtype), weight.unsqueeze(-1))
        total = torch.logaddexp(total, logsumexp)
    return merged, total


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
    """Attention over local and memory keys, as `memagent.kernels.memory_attention` describes it.

    ``mask`` is None or has four dimensions. Differentiable in every tensor.
    """
    differentiable = needs_gradient(
        query, key, value, memory_query, memory_key, memory_value, mask, memory_bias
    )
    attend = _flash if query.device.type == "cpu" and not differentiable else _materialised

    q_len, kv_len = query.shape[2], key.shape[2]
    is_causal = is_causal and q_len > 1
    if is_causal and mask is not None:
        mask, is_causal = _causal(mask, q_len, kv_len), False
    # PyTorch's causal flag counts from the first key, so the keys before the queries' own tokens are a set of their own.
    past = kv_len - q_len if is_causal else 0
    parts = []
    if past:
        parts.append(attend(query, key[:, :, :past], value[:, :, :past], None, False, scaling))
        key, value = key[:, :, past:], value[:, :, past:]
    if kv_len:
        parts.append(attend(query, key, value, mask, is_causal, scaling))
    if memory_key.shape[2]:
        memory = (memory_query, memory_key, memory_value)
        if memory_bias is not None and memory_bias.dim() == 1:
            memory_bias = memory_bias[None]
        bias = None if memory_bias is None else memory_bias[:, None, None]
        parts.append(
            attend(*memory, bias, False, scaling) if top_k is None else _best(*memory, bias, scaling, top_k)
        )
    if not parts:
        return torch.zeros_like(query)
    outputs, logsumexps = zip(*parts, strict=True)
    return merge(outputs, logsumexps)[0].to(query.dtype)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Return whether autograd needs the graph of a computation on these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _causal(mask: Tensor, q_len: int, kv_len: int) -> Tensor:
    visible = torch.ones(q_len, kv_len, dtype=torch.bool, device=mask.device).tril(kv_len - q_len)
    return mask & visible if mask.dtype == torch.bool else mask.masked_fill(~visible, -torch.inf)


def _additive(mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The mask as numbers to add, and which queries see no key: ``[batch or 1, heads or 1, q_len or 1]``."""
    if mask.dtype != torch.bool:
        mask = mask.to(dtype)
        return mask, mask.isneginf().all(dim=-1)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf), ~mask.any(dim=-1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scaling: float
) -> Part:
    """PyTorch's flash attention for CPUs, which knows grouped heads and any head_dim, not boolean masks."""
    batch, heads, q_len, head_dim = query.shape
    kv_heads, kv_len = key.shape[1:3]
    # With a last stride other than 1 it computes something else, without an error.
    query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
    if key.shape[0] != batch:
        key, value = (t.expand(batch, -1, -1, -1) for t in (key, value))
    empty = None
    if mask is not None:
        mask, empty = _additive(mask.expand(-1, -1, -1, kv_len), _wide(query.dtype))
    if not is_causal and (mask is None or q_len == 1 or mask.shape[1] == mask.shape[2] == 1):
        # Heads that share a key head become rows of one product: one query of 14 heads is ten times faster.
        query = query.reshape(batch, kv_heads, -1, head_dim)
        if mask is not None and mask.shape[1] > 1:
            mask = mask.reshape(mask.shape[0], kv_heads, -1, kv_len)
    output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=mask, scale=scaling
    )
    output, logsumexp = output.reshape(batch, heads, q_len, head_dim), logsumexp.reshape(batch, heads, q_len)
    # It says 0 for a query that sees no key.
    return output, logsumexp if empty is None else logsumexp.masked_fill(empty, -torch.inf)


def _materialised(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scaling: float
) -> Part:
    """Scores in full, by matrix products in float32 (float64): differentiable, on any device."""
    batch, heads, q_len, _ = query.shape
    kv_heads, kv_len = key.shape[1:3]
    dtype = _wide(query.dtype)
    keys, values = key.to(dtype).transpose(-1, -2), value.to(dtype)
    if is_causal:
        mask = _causal(query.new_ones(1, 1, 1, 1, dtype=torch.bool), q_len, kv_len)
    bias, empty = (None, None) if mask is None else _additive(mask, dtype)
    outputs, logsumexps = [], []
    for rows in _blocks(q_len, batch * heads * kv_len):
        scores = _grouped(query[:, :, rows].to(dtype), kv_heads) @ keys * scaling
        scores = scores.reshape(batch, heads, -1, kv_len)
        if bias is not None:
            scores = scores + _of(bias, rows)
        weights, logsumexp = _softmax(scores, None if empty is None else _of(empty, rows))
        outputs.append((_grouped(weights, kv_heads) @ values).reshape(batch, heads, -1, values.shape[-1]))
        logsumexps.append(logsumexp)
    return torch.cat(outputs, dim=2), torch.cat(logsumexps, dim=2)


def _best(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float, top_k: int) -> Part:
    """Attention of each query to its ``top_k`` keys of the largest scores; only their values are gathered.

    ``bias`` is None or ``[batch or 1, 1, 1, length]``: it hides all of a sample's keys from every query or from none.
    """
    batch, heads, q_len, head_dim = query.shape
    kv_heads, length = key.shape[1:3]
    dtype, top_k = _wide(query.dtype), min(top_k, length)
    bias, empty = (None, None) if bias is None else _additive(bias, dtype)
    keys = key.to(dtype).transpose(-1, -2)  # scores in half precision would choose other keys
    values = value.reshape(-1, head_dim)
    first = torch.arange(0, len(values), length, device=value.device).view(value.shape[0], kv_heads, 1, 1)
    outputs, logsumexps = [], []
    for rows in _blocks(q_len, batch * heads * max(length, top_k * head_dim)):
        scores = _grouped(query[:, :, rows].to(dtype), kv_heads) @ keys * scaling
        if bias is not None:
            scores = scores + bias
        largest, indices = scores.topk(top_k, dim=-1, sorted=False)
        chosen = values[indices + first].to(dtype)  # [batch, kv_heads, group * rows, top_k, head_dim]
        weights, logsumexp = _softmax(largest, empty)
        outputs.append((weights.unsqueeze(-2) @ chosen).reshape(batch, heads, -1, head_dim))
        logsumexps.append(logsumexp.reshape(batch, heads, -1))
    return torch.cat(outputs, dim=2), torch.cat(logsumexps, dim=2)


def _softmax(scores: Tensor, empty: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights, 0 for queries that see no key, and log-sum-exp, -inf for these."""
    if empty is None:
        return scores.softmax(dim=-1), scores.logsumexp(dim=-1)
    rows = empty.unsqueeze(-1)
    scores = scores.masked_fill(rows, 0)  # before as well as after, or gradients would be NaN
    weights, logsumexp = scores.softmax(dim=-1), scores.logsumexp(dim=-1)
    return weights.masked_fill(rows, 0), logsumexp.masked_fill(empty, -torch.inf)


def _grouped(tensor: Tensor, kv_heads: int) -> Tensor:
    """[batch, heads, q_len, n] -> [batch, kv_heads, group * q_len, n]: keys need no repeating."""
    return tensor.reshape(tensor.shape[0], kv_heads, -1, tensor.shape[-1])


def _blocks(q_len: int, size: int) -> Iterator[slice]:
    """Stretches of the queries such that a temporary of ``size`` numbers a query stays within `BUDGET`."""
    step = max(1, BUDGET // max(1, size))
    return (slice(start, start + step) for start in range(0, q_len, step))


def _of(mask: Tensor, rows: slice) -> Tensor:
    """What of a mask ``[batch or 1, heads or 1, q_len or 1, ...]`` is for these queries."""
    return mask if mask.shape[2] == 1 else mask[:, :, rows]
