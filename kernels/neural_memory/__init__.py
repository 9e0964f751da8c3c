"""Titans' neural memory: an MLP whose weights are learnt while it reads (https://arxiv.org/abs/2501.00663).

The memory M is an MLP without biases, ``gelu(... gelu(x W_1) ...) W_L``. A token writes its key and value into it by a
step of gradient descent with momentum and forgetting, and its query is answered by what M is then:

    loss_t = ||M(k_t) - v_t||^2                                       (eq. 12)
    S_t = eta_t S_{t-1} - theta_t grad loss_t                         (eq. 14) surprise
    M_t = (1 - alpha_t) M_{t-1} + S_t                                 (eq. 13)
    y_t = M_t(q_t)                                                    (eq. 15)

Gradients are taken at the weights of the chunk's start, as in section 3.2 of the paper; with a ``chunk_size`` of 1 at
M_{t-1}, which is the memory as section 3.1 defines it. Projections, normalisation of queries and keys, convolutions
and output gates belong to the layer around it.

The one switch between versions: Triton for memories on a CUDA device that fit on the chip, and under
``TRITON_INTERPRET=1``; plain PyTorch otherwise.
"""

from __future__ import annotations

from torch import Tensor

from memagent.kernels.neural_memory import eager
from memagent.kernels.neural_memory.checks import check_options, check_state, check_tokens, check_update
from memagent.kernels.neural_memory.state import NeuralMemoryState
from memagent.kernels.switch import use_fused

__all__ = ["NeuralMemoryState", "neural_memory", "retrieve"]


def neural_memory(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    theta: Tensor,
    eta: Tensor,
    alpha: Tensor,
    state: NeuralMemoryState,
    *,
    chunk_size: int,
    update: str = "token",
) -> tuple[Tensor, NeuralMemoryState]:
    """Write tokens into the memory and answer each token's query, in order.

    Causal: ``y_t`` depends on queries, keys, values and gates of no token after t. It does depend on what token t
    itself writes. To read before that, ask with `retrieve`, or give the query one token earlier.

    Calls may be cut anywhere: the state goes on where the last call stopped, to the same numbers.

    Args:
        query: ``[batch, heads, length, d_key]``. ``length`` is any number, 0 included.
        key: Like ``query``.
        value: ``[batch, heads, length, d_value]``.
        theta: ``[batch, heads, length]``, the size of the token's gradient step, 0 or more. The loss is a sum
            over ``d_value``, not a mean, and its gradient has the factor 2.
        eta: Like ``theta``, 0 to 1: how much of the past surprise goes on.
        alpha: Like ``theta``, 0 to 1: how much of the memory is forgotten.
        state: The memory before these tokens, float32 or float64; what is computed is computed in its type.
        chunk_size: Tokens that share the weights at which gradients are taken. Belongs to the state: the same in
            every call.
        update: "token": S and M take a step at every token, as in the equations above. "chunk": one step at a
            chunk's end, with the sum of ``theta_t grad loss_t`` and the means of eta and alpha over the chunk;
            queries read the memory after the last finished chunk, which for a chunk's last token is its own.

    Returns:
        ``[batch, heads, length, d_value]`` in the query's type, and the state after the last token.

    Raises:
        ValueError: Shapes or types that do not fit each other, a ``chunk_size`` below 1 or not the state's, or an
            ``update`` that is none of the two.

    Gradients flow into every tensor, those of the state included; they cannot be differentiated again.

    Nothing bounds the memory but its gates. Within a chunk the steps of all tokens add up, each again and again while
    its momentum lasts, so ``theta`` should fall as ``(1 - eta) / chunk_size`` where keys resemble each other.
    """
    check_state(query, state)
    check_options(chunk_size, update, state)
    gates = {"theta": theta, "eta": eta, "alpha": alpha}
    check_tokens(query, key, value, gates, state.weights[-1].shape[3])
    tensors = (query, key, value, theta, eta, alpha)
    if use_fused(query):
        from memagent.kernels.neural_memory import fused

        if fused.fits(state, chunk_size):
            return fused.neural_memory(*tensors, state, chunk_size=chunk_size, update=update)
    return eager.neural_memory(*tensors, state, chunk_size=chunk_size, update=update)


def retrieve(query: Tensor, state: NeuralMemoryState, *, update: str = "token") -> Tensor:
    """Ask the memory without writing, ``M*(q)`` in the paper: all queries read M after the state's last token.

    Args:
        query: ``[batch, heads, length, d_key]``.
        state: The memory to ask; it is not changed.
        update: As in `neural_memory`: "token" counts the tokens of an unfinished chunk in, "chunk" does not.

    Returns:
        ``[batch, heads, length, d_value]`` in the query's type.

    Raises:
        ValueError: A query that does not fit the state, or an ``update`` that is neither.
    """
    check_state(query, state)
    check_update(update)
    return eager.retrieve(query, state, update=update)
