"""Memory attention with a bias on its keys: what a bias means."""

from __future__ import annotations

import pytest
import torch

from memagent.kernels.memory_attention import memory_attention
from tests.kernels.memory_attention_cases import Sizes, assert_close, memory_bias, options, tensors


@pytest.mark.parametrize("learns", [False, True])
def test_memory_bias_alone_asks_for_gradients(learns: bool) -> None:
    sizes = Sizes(4, 2, 1, 9, 5, 16)
    numbers = memory_bias(sizes, "weights").requires_grad_(learns)
    assert memory_attention(*tensors(sizes), memory_bias=numbers, scaling=1.0).requires_grad == learns


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("q_len", [1, 3])
def test_memory_bias_is_the_log_of_how_often_a_key_counts(q_len: int, top_k: int | None) -> None:
    sizes = Sizes(4, 2, q_len, 9, 5, 16)
    inputs, named = tensors(sizes), options(sizes)
    zeros = torch.zeros(5)
    assert_close(
        memory_attention(*inputs, **named, top_k=top_k),
        memory_attention(*inputs, **named, top_k=top_k, memory_bias=zeros),
    )
    times = torch.tensor([1, 3, 0, 2, 0])
    logs = times.double().log()  # in float32 the logs would be wrong in the eighth digit
    repeated = [*inputs[:4], *(tensor.repeat_interleave(times, dim=2) for tensor in inputs[4:])]
    assert_close(memory_attention(*repeated, **named), memory_attention(*inputs, **named, memory_bias=logs))
    hidden = [*inputs[:4], *(tensor[:, :, :0] for tensor in inputs[4:])]
    assert_close(
        memory_attention(*hidden, **named),
        memory_attention(*inputs, **named, top_k=top_k, memory_bias=zeros - torch.inf),
    )


def test_memory_bias_counts_in_the_choice_of_the_top_k() -> None:
    sizes = Sizes(4, 2, 3, 1, 17, 8)
    inputs = tensors(sizes)
    nothing = torch.zeros(1, 1, 3, 1, dtype=torch.bool)
    numbers = torch.zeros(17)
    numbers[11] = 1e3
    output = memory_attention(*inputs, mask=nothing, scaling=1.0, top_k=1, memory_bias=numbers)
    assert torch.equal(output, inputs[5][:, :, 11:12].repeat_interleave(2, dim=1).expand_as(output))


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("learns", [False, True])
def test_a_query_that_sees_neither_local_keys_nor_memory_gets_zeros(learns: bool, top_k: int | None) -> None:
    sizes = Sizes(4, 2, 3, 9, 5, 16)
    inputs, numbers = tensors(sizes), memory_bias(sizes, "all hidden")
    learnt = [tensor.requires_grad_(learns) for tensor in (*inputs, numbers)]
    nothing = torch.zeros(1, 1, 3, 9, dtype=torch.bool)
    output = memory_attention(*inputs, mask=nothing, scaling=1.0, top_k=top_k, memory_bias=numbers)
    assert not output.any()
    if learns:
        gradients = torch.autograd.grad(output.sum(), learnt, materialize_grads=True)
        assert not any(gradient.any() for gradient in gradients)
