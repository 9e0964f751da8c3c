"""The gates of a block of tokens as coefficients of an unrolled linear recurrence.

With the gradients g_i fixed at a chunk's start, every weight of every layer follows the same recurrence
``S_t = eta_t S_{t-1} - theta_t g_t``, ``M_t = (1 - alpha_t) M_{t-1} + S_t`` (Titans, eqs. 13 and 14). Unrolled over a block
of tokens it is ``M_t = read_t0 M_0 + read_t1 S_0 - sum_{i<=t} mix_ti theta_i g_i``, so that no token needs a tensor of the
size of the weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Coefficients(NamedTuple):
    """Coefficients of ``blocks`` blocks of ``block`` tokens each, for ``n`` memories.

    Attributes:
        mix: ``[n, blocks, block, block]``: minus the coefficients of the tokens' gradient steps (last dimension) in M_t. None
            if queries read the weights of their block's start.
        read: ``[n, blocks, block, 2]``: those of M and S at the block's start in M_t. None if ``mix`` is.
        carry: ``[n, blocks, 2, 2]``: those of M and S at the block's start (columns) in M and S at its end (rows).
        write: ``[n, blocks, 2, block]``: minus those of the tokens' gradient steps in M and in S at the block's end. None: all
            are 1 in both, so that M at the end is carry_00 M + S at the end.
    """

    mix: Tensor | None
    read: Tensor | None
    carry: Tensor
    write: Tensor | None


def token_coefficients(eta: Tensor, alpha: Tensor, block: int) -> Coefficients:
    """Return the coefficients for a step at every token.

    Each row follows from the one before, for all blocks at once. Products of gates stay exact where a gate is 0 or 1;
    quotients of cumulative products do not.

    Args:
        eta: Share of the momentum that stays, ``[n, length]``, 0 to 1. The last block may be incomplete.
        alpha: Share of the weights that decays, like ``eta``.
        block: Tokens of a block.
    """
    count, length = eta.shape
    blocks = -(-length // block)
    eta, alpha = (pad(gate, (0, blocks * block - length)).view(count, blocks, block) for gate in (eta, alpha))
    # Columns: M and S at the start, then the tokens' gradient steps.
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


def chunk_coefficients(eta: Tensor, alpha: Tensor, chunk_size: int) -> Coefficients:
    """Return the coefficients for one step a chunk, with the means of eta and alpha.

    Args:
        eta: Share of the momentum that stays, ``[n, length]``, 0 to 1. An incomplete chunk takes no step.
        alpha: Share of the weights that decays, like ``eta``.
        chunk_size: Tokens of a chunk.
    """
    count, length = eta.shape
    chunks = length // chunk_size
    eta, alpha = (gate[:, : chunks * chunk_size].view(count, chunks, chunk_size) for gate in (eta, alpha))
    decay, keep = eta.mean(2), 1 - alpha.mean(2)
    carry = torch.stack((keep, decay, torch.zeros_like(decay), decay), 2).view(count, chunks, 2, 2)
    return Coefficients(None, None, carry, None)
