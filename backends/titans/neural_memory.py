"""A neural memory of fixed size that learns embeddings while it reads them.

It consists of two MLPs, the heads of one `memagent.kernels.neural_memory` state. With unit vectors ``e_t``, one for each
chunk of the journal in order, head 0 learns the chunks themselves, ``k = v = e_t``, and head 1 the sequence of a session,
``k = e_{t-1}, v = e_t``. Both take one step of gradient descent for each chunk, with momentum and forgetting (Titans, arXiv
2501.00663, equations 12 to 14).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from memagent.backends.titans.write_statistics import WriteStatistics
from memagent.kernels.neural_memory import NeuralMemoryState, neural_memory, retrieve

HEADS = 2


class NeuralMemoryNetwork:
    """Two MLPs that learn which chunks there are, and which chunk follows which.

    Args:
        dimension: Of the embeddings.
        depth: Layers of each MLP, 1 to 4.
        width: Size of the hidden layers.
        theta: Learning rate of a step, above 0.
        eta: Momentum: the share of the last step that goes on, 0 to below 1.
        alpha: Share of the weights that each chunk forgets, 0 to below 1.
        seed: Of the initial weights ``M_0``. The last layer begins at 0, so that an empty memory answers with 0.
    """

    def __init__(
        self, dimension: int, depth: int, width: int, theta: float, eta: float, alpha: float, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = [dimension, *[width] * (depth - 1), dimension]
        weights = [
            torch.randn(HEADS, rows, columns, generator=generator) * rows**-0.5
            for rows, columns in pairwise(sizes)
        ]
        weights[-1].zero_()
        self._gates = theta, eta, alpha
        self._state = NeuralMemoryState.initial(weights, batch=1)

    @property
    def bytes(self) -> int:
        """The size of weights and momentum, in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._state.tensors().values())

    def write(self, embedding: Tensor, previous: Tensor | None) -> WriteStatistics:
        """Learn one chunk.

        Args:
            embedding: ``[dimension]``, of length 1.
            previous: The embedding of the chunk before it in its session; None for the first, which head 1 does not learn.

        Returns:
            The statistics of head 0.
        """
        keys = torch.stack([embedding, embedding if previous is None else previous])[None, :, None]
        values = embedding.expand(1, HEADS, 1, -1)
        theta, eta, alpha = (torch.full((1, HEADS, 1), gate) for gate in self._gates)
        if previous is None:
            theta[:, 1] = 0.0
        with torch.no_grad():
            before = retrieve(keys, self._state)
            after, state = neural_memory(keys, keys, values, theta, eta, alpha, self._state, chunk_size=1)
        surprise, remaining = (
            float((output[0, 0, 0] - embedding).square().sum()) for output in (before, after)
        )
        # Too large a step may overflow a deep memory. It is not taken, because nothing of the memory would be left.
        if math.isfinite(remaining) and all(weight.isfinite().all() for weight in state.weights):
            self._state = state
            return WriteStatistics(surprise, surprise - remaining)
        return WriteStatistics(surprise, 0.0)

    def retrieve(self, query: Tensor) -> Tensor:
        """Return the heads' outputs for a query; the memory does not change.

        Args:
            query: ``[dimension]``, of length 1.

        Returns:
            ``[2, dimension]``: near the embeddings of chunks like the query, and near those of the chunks that follow these;
            near 0 if the memory knows none.
        """
        with torch.no_grad():
            return retrieve(query.expand(1, HEADS, 1, -1), self._state)[0, :, 0]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a stored state."""
        return self._state.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the state with a stored one.

        Args:
            tensors: From `tensors`.

        Raises:
            ValueError: The tensors are not a state, or one of other shapes.
        """
        state = NeuralMemoryState.from_tensors(tensors)
        shapes, expected = (
            [list(weight.shape) for weight in weights] for weights in (state.weights, self._state.weights)
        )
        if shapes != expected:
            raise ValueError(f"weights are expected to be {expected} rather than {shapes}")
        self._state = state
