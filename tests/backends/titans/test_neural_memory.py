"""The neural memory of embeddings: what it learns, overwrites and forgets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from memagent.backends.titans.neural_memory import NeuralMemoryNetwork


def random_embeddings(count: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(count, 32, generator=torch.Generator().manual_seed(seed)), dim=1)


def small_network(depth: int = 1, alpha: float = 0.0, theta: float = 0.3) -> NeuralMemoryNetwork:
    return NeuralMemoryNetwork(32, depth, 64, theta, 0.2, alpha, seed=0)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_repetition_lowers_surprise_and_its_reduction(depth: int) -> None:
    network, (embedding,) = small_network(depth), random_embeddings(1)
    writes = [network.write(embedding, None) for _ in range(6)]
    assert writes[0].surprise == pytest.approx(1.0, abs=1e-4)  # an empty memory answers with 0
    assert writes[-1].surprise < 0.3 * writes[0].surprise
    if depth < 3:  # three layers, the last of them 0 at first, begin to learn slowly
        assert writes[-1].surprise_reduction < 0.6 * writes[0].surprise_reduction
    assert float(network.retrieve(embedding)[0] @ embedding) > 0.7


def test_steps_that_overflow_a_deep_memory_are_not_taken() -> None:
    network = NeuralMemoryNetwork(32, 4, 64, theta=0.5, eta=0.9, alpha=0.0, seed=0)
    for embedding in random_embeddings(300, seed=2) * 3:
        network.write(embedding, embedding)
    assert all(tensor.isfinite().all() for tensor in network.tensors().values())
    assert network.retrieve(random_embeddings(1)[0]).isfinite().all()


def test_a_new_successor_overwrites_the_old_one() -> None:
    network, (previous, successor, other) = small_network(), random_embeddings(3)
    for _ in range(6):
        network.write(successor, previous)
    assert float(network.retrieve(previous)[1] @ successor) > 0.7
    for _ in range(5):
        network.write(other, previous)
    output = network.retrieve(previous)[1]
    assert float(output @ other) > 0.7 > float(output @ successor)


def test_its_size_is_fixed_and_alpha_forgets() -> None:
    keeping, forgetting, embeddings = small_network(), small_network(alpha=0.2), random_embeddings(24, seed=1)
    size = keeping.bytes
    for embedding in embeddings:
        keeping.write(embedding, None)
        forgetting.write(embedding, None)
    assert keeping.bytes == size == 2 * 2 * 32 * 32 * 4
    first, last = embeddings[0], embeddings[-1]
    assert float(keeping.retrieve(first)[0] @ first) > 0.3
    assert abs(float(forgetting.retrieve(first)[0] @ first)) < 0.1
    assert float(forgetting.retrieve(last)[0] @ last) > 0.3


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weights are expected to be \[\[1, 2, 32, 64\]"):
        small_network(depth=2).restore(small_network(depth=1).tensors())
