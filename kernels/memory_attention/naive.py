"""The specification: local and memory scores side by side in one softmax, everything materialised."""

from __future__ import annotations

import torch
from torch import Tensor


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

    Computes in float32, or in float64 if the query is.
    """
    batch, heads, q_len, _ = query.shape
    kv_heads, kv_len = key.shape[1:3]
    dtype = torch.promote_types(query.dtype, torch.float32)

    def for_every_head(tensor: Tensor) -> Tensor:
        """[batch or 1, kv_heads, length, head_dim] -> [batch, heads, length, head_dim]."""
        return tensor.to(dtype).expand(batch, -1, -1, -1).repeat_interleave(heads // kv_heads, dim=1)

    local = query.to(dtype) @ for_every_head(key).transpose(-1, -2) * scaling  # [batch, heads, q_len, kv_len]
    if mask is not None and mask.dtype == torch.bool:
        local = local.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        local = local + mask.to(dtype)
    if is_causal:
        visible = torch.ones(q_len, kv_len, dtype=torch.bool, device=query.device).tril(kv_len - q_len)
        local = local.masked_fill(~visible, -torch.inf)

    memory = memory_query.to(dtype) @ for_every_head(memory_key).transpose(-1, -2) * scaling
    if memory_bias is not None:
        per_sample = memory_bias if memory_bias.dim() == 2 else memory_bias[None]
        memory = memory + per_sample[:, None, None].to(dtype)
    if top_k is not None:
        best = memory.topk(min(top_k, memory.shape[-1]), dim=-1)
        memory = torch.full_like(memory, -torch.inf).scatter(-1, best.indices, best.values)

    scores = torch.cat((local, memory), dim=-1)
    sees_nothing = scores.isneginf().all(dim=-1, keepdim=True)
    weights = scores.masked_fill(sees_nothing, 0).softmax(dim=-1).masked_fill(sees_nothing, 0)
    values = torch.cat((for_every_head(value), for_every_head(memory_value)), dim=2)
    return (weights @ values).to(query.dtype)
