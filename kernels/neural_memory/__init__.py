"""Titans' neural memory: an MLP whose weights are trained while it reads (https://arxiv.org/abs/2501.00663).

The memory M is an MLP without biases, ``gelu(... gelu(x W_1) ...) W_L``. Each token writes its key and value by a step of
gradient descent with momentum and forgetting, then reads the memory with its query:

    loss_t = ||M(k_t) - v_t||^2                                       (eq. 12)
    S_t = eta_t S_{t-1} - theta_t grad loss_t                         (eq. 14) surprise
    M_t = (1 - alpha_t) M_{t-1} + S_t                                 (eq. 13)
    y_t = M_t(q_t)                                                    (eq. 15)

Gradients are taken at the weights of the chunk's start, as in section 3.2 of the paper. With a ``chunk_size`` of 1 these
are M_{t-1}, as section 3.1 defines the memory. Projections, normalisation of queries and keys, convolutions and output
gates belong to the layer around it.

The fused (Triton) version runs for memories that fit on the chip, on a CUDA device or under ``TRITON_INTERPRET=1``; the
eager (PyTorch) version runs otherwise.
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
    """Write tokens into the memory and read it with each token's query, in order.

    The memory is causal: ``y_t`` depends on the tokens up to t, and on the write of token t itself. To read before this
    write, call `retrieve`, or give the query one token earlier.

    A sequence may be split into calls anywhere: the state continues where the last call stopped, with the same numbers.

    Gradients flow into every tensor, those of the state included; they cannot be differentiated again.

    Nothing bounds the memory but its gates. Within a chunk the steps of all tokens add up, and momentum repeats each of
    them, so ``theta`` should fall as ``(1 - eta) / chunk_size`` where keys are similar.

    Args:
        query: ``[batch, heads, length, d_key]``; ``length`` may be 0.
        key: ``[batch, heads, length, d_key]``.
        value: ``[batch, heads, length, d_value]``.
        theta: ``[batch, heads, length]``, 0 or more: the learning rate of each token's step. The loss is a sum over
            ``d_value``, not a mean, and its gradient has the factor 2.
        eta: ``[batch, heads, length]``, 0 to 1: the share of the past surprise that goes on, as momentum.
        alpha: ``[batch, heads, length]``, 0 to 1: the share of the memory that is forgotten.
        state: The memory before these tokens, float32 or float64. All computations are in its type.
        chunk_size: Tokens that share the weights at which gradients are taken, 1 or more. It belongs to the state: all
            calls must have the same.
        update: "token": S and M take a step at every token, as in the equations above. "chunk": they take one step at a
            chunk's end, with the sum of ``theta_t grad loss_t`` and the means of eta and alpha over the chunk; queries read
            the memory after the last complete chunk, and the last query of a chunk reads the memory after its own.

    Returns:
        ``[batch, heads, length, d_value]`` in the query's type, and the state after the last token.

    Raises:
        ValueError: Shapes or types do not fit each other, ``chunk_size`` is below 1 or not the state's, or ``update`` is
            neither "token" nor "chunk".
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
    """Read the memory without writing, ``M*(q)`` in the paper.

    Args:
        query: ``[batch, heads, length, d_key]``.
        state: The memory to read; it does not change.
        update: As in `neural_memory`. "token": queries read the memory after the state's last token. "chunk": they read it
            after the last complete chunk.

    Returns:
        ``[batch, heads, length, d_value]`` in the query's type.

    Raises:
        ValueError: The query does not fit the state, or ``update`` is neither "token" nor "chunk".
    """
    check_state(query, state)
    check_update(update)
    return eager.retrieve(query, state, update=update)
