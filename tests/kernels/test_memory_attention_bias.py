"""Memory attention with weights on its keys: outputs and gradients, and what a weight means."""

from __future__ import annotations

import pytest
import torch

from memagent.kernels.memory_attention import eager as fast
from memagent.kernels.memory_attention import memory_attention
from memagent.kernels.memory_attention.naive import memory_attention as naive
from tests.kernels.memory_attention_cases import (
    SIZES,
    Sizes,
    assert_close,
    each_bias,
    each_size,
    memory_bias,
    options,
    tensors,
)


# A thousand keys are more than PyTorch's flash attention takes at a time: whole blocks of them are hidden.
@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@each_bias
@pytest.mark.parametrize("sizes", [*SIZES, Sizes(6, 2, 3, 9, 1100, 64), Sizes(6, 2, 1, 9, 1100, 64)], ids=str)
def test_memory_bias_matches_naive(sizes: Sizes, bias: str, dtype: torch.dtype, top_k: int | None) -> None:
    inputs, named = tensors(sizes, dtype, memory_batch=1), options(sizes, "boolean")
    named |= {"memory_bias": memory_bias(sizes, bias), "top_k": top_k}
    assert_close(naive(*inputs, **named), memory_attention(*inputs, **named))


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("kind", ["boolean", "causal"])
@each_bias
@each_size
def test_gradients_with_memory_bias_match_naive(
    sizes: Sizes, bias: str, kind: str, top_k: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "BUDGET", 2 * 9 * 130 * 5)  # of 63 queries a few at a time
    inputs, numbers = tensors(sizes, memory_batch=1), memory_bias(sizes, bias)
    learnt = [tensor.requires_grad_() for tensor in (*inputs, numbers)]
    named = options(sizes, kind) | {"memory_bias": numbers, "top_k": top_k}
    outputs = [attend(*inputs, **named) for attend in (naive, memory_attention)]
    cotangent = torch.randn_like(outputs[0])
    expected, actual = (
        torch.autograd.grad(output, learnt, cotangent, materialize_grads=True) for output in outputs
    )
    assert_close(outputs[0], outputs[1])
    for want, got in zip(expected, actual, strict=True):
        assert_close(want, got)


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
