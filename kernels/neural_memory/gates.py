"""What the gates of a chunk amount to: the coefficients of a linear recurrence, unrolled.

With the gradients g_i fixed at a chunk's start, every weight of every layer follows the same recurrence
``S_t = eta_t S_{t-1} - theta_t g_t``, ``M_t = (1 - alpha_t) M_{t-1} + S_t`` (Titans, eqs. 13 and 14). Unrolled over a block
of tokens it is ``M_t = read_t0 M_0 + read_t1 S_0 - sum_{i<=t} mix_ti theta_i g_i``, so that nothing of the size of the
weights is needed for a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Coefficients(NamedTuple):
    """Coefficients of ``blocks`` stretches of ``block`` tokens each, for ``n`` memories.

    ``mix`` and ``read`` are None where a query reads the weights of its block's start.
    """

    mix: Tensor | None
    """``[n, blocks, block, block]``: minus the share in M_t of the gradient step of token i."""
    read: Tensor | None
    """``[n, blocks, block, 2]``: of M and S at the block's start, in M_t."""
    carry: Tensor
    """``[n, blocks, 2, 2]``: of M and S at the block's start (columns), in M and S at its end (rows)."""
    write: Tensor | None
    """``[n, blocks, 2, block]``: minus the share of token i's gradient step in M and in S at the block's end. None: all of
    it in both, so that M at the end is carry_00 M + S at the end."""


def of_tokens(eta: Tensor, alpha: Tensor, block: int) -> Coefficients:
    """Coefficients for a step at every token; gates ``[n, length]``, the last block may be unfinished.

    Rows are made one from the other, for all blocks at once. Products of gates, rather than quotients of
    cumulated ones, stay exact where a gate is 0 or 1.
    """
    count, length = eta.shape
    blocks = -(-length // block)
    eta, alpha = (pad(gate, (0, blocks * block - length)).view(count, blocks, block) for gate in (eta, alpha))
    # Columns: M and S at the start, then the tokens' gradients.
    unit = torch.eye(block + 2, dtype=eta.dtype, device=eta.device)
    weights, momentum = unit[0].expand(count, blocks, -1), unit[1].expand(count, blocks, -1)
    rows = []
    for token in range(block):
        momentum = eta[..., token, None] * momentum + unit[2 + token]
        weights = (1 - alpha[..., token, None]) * weights + momentum
        rows.append(weights)
    history = torch.stack(rows, 2)  # [n, blocks, block, 2 + block]
    end = torch.stack((weights, momentum), 2)  # [n, blocks, 2, 2 + block]
    return Coefficients(history[..., 2:], history[..., :2], end[..., :2], end[..., 2:])


def of_chunks(eta: Tensor, alpha: Tensor, chunk_size: int) -> Coefficients:
    """Coefficients for one step a chunk, with the means of eta and alpha; unfinished chunks take none."""
    count, length = eta.shape
    chunks = length // chunk_size
    eta, alpha = (gate[:, : chunks * chunk_size].view(count, chunks, chunk_size) for gate in (eta, alpha))
    decay, keep = eta.mean(2), 1 - alpha.mean(2)
    carry = torch.stack((keep, decay, torch.zeros_like(decay), decay), 2).view(count, chunks, 2, 2)
    return Coefficients(None, None, carry, None)
