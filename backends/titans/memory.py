"""The network that remembers: two MLPs which learn, while turns come, what was said and what it followed.

Embeddings are unit vectors ``e_t``, one for each span of the journal. Head 0 learns what was said, ``k = v = e_t``; head 1
what follows what, ``k = e_{t-1}, v = e_t``. Both are written by surprise, with momentum and forgetting (Titans, arXiv
2501.00663, equations 12 to 14; see ``kernels.neural_memory``), one span at a time, and never see one again: their size is
the same whatever they have read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from memagent.backends.titans.write_statistics import Written
from memagent.kernels.neural_memory import NeuralMemoryState, neural_memory, retrieve

HEADS = 2


class TestTimeMemory:
    """A memory of fixed size.

    Args:
        dimension: of the embeddings.
        depth: layers of each MLP, 1 to 4.
        width: of its hidden layers.
        theta, eta, alpha: step of surprise, share of past surprise that goes on, share forgotten at each span.
        seed: for the first weights, ``M_0``. The last layer begins at 0, so that an empty memory says nothing.
    """

    __test__ = False  # not a test, whatever pytest thinks of its name

    def __init__(
        self, dimension: int, depth: int, width: int, theta: float, eta: float, alpha: float, seed: int
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        sizes = [dimension, *[width] * (depth - 1), dimension]
        weights = [
            torch.randn(HEADS, rows, columns, generator=random) * rows**-0.5
            for rows, columns in pairwise(sizes)
        ]
        weights[-1].zero_()
        self._gates = theta, eta, alpha
        self._state = NeuralMemoryState.initial(weights, batch=1)

    @property
    def bytes(self) -> int:
        """Size of weights and momentum."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._state.tensors().values())

    def write(self, embedding: Tensor, before: Tensor | None) -> Written:
        """Learn one span.

        Args:
            embedding: ``[dimension]``, of length 1.
            before: that of the span before it in its session, if any.
        """
        cues = torch.stack([embedding, embedding if before is None else before])[None, :, None]
        values = embedding.expand(1, HEADS, 1, -1)
        theta, eta, alpha = (torch.full((1, HEADS, 1), gate) for gate in self._gates)
        if before is None:
            theta[:, 1] = 0.0
        with torch.no_grad():
            old = retrieve(cues, self._state)
            new, state = neural_memory(cues, cues, values, theta, eta, alpha, self._state, chunk_size=1)
        surprise, rest = (float((said[0, 0, 0] - embedding).square().sum()) for said in (old, new))
        # Steps too large for a deep memory may overflow: such a one is not taken, or nothing would be left.
        if math.isfinite(rest) and all(weight.isfinite().all() for weight in state.weights):
            self._state = state
            return Written(surprise, surprise - rest)
        return Written(surprise, 0.0)

    def read(self, cue: Tensor) -> Tensor:
        """Return what each head says to a cue ``[dimension]``: ``[2, dimension]``, near 0 if it knows nothing like it."""
        with torch.no_grad():
            return retrieve(cue.expand(1, HEADS, 1, -1), self._state)[0, :, 0]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, to be saved."""
        return self._state.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` gave.

        Raises:
            ValueError: they are of another memory.
        """
        state = NeuralMemoryState.from_tensors(tensors)
        if [one.shape for one in state.weights] != [one.shape for one in self._state.weights]:
            raise ValueError("its weights are of another shape")
        self._state = state
