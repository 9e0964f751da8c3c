"""Memory attention against the specification, outputs and gradients, on odd sizes; and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from memagent.kernels.memory_attention import eager, memory_attention, merge
from memagent.kernels.memory_attention.naive import memory_attention as naive
from tests.kernels.memory_attention_cases import (
    BIASES,
    MASKS,
    SIZES,
    Sizes,
    assert_close,
    case_id,
    memory_bias,
    options,
    queries_fit,
    sizes_of,
    tensors,
)
from tests.kernels.pairwise import Case, pairwise_cases

FORWARD = pairwise_cases(
    {
        **SIZES,
        # PyTorch's flash attention takes fewer than a thousand keys at a time: whole blocks of these are hidden.
        "memory_len": [*SIZES["memory_len"], 1100],
        "mask": MASKS,
        "bias": ["none", *BIASES],
        "top_k": [None, 1, 5, 16],
        "dtype": [torch.float64, torch.float32, torch.bfloat16],
        "memory_batch": [1, 2],
        # With gradients scores are materialised, for all queries or for as many as the budget allows.
        "gradients": [False, True],
        "budget": ["default", "few queries", "one query"],
    },
    allowed=queries_fit,
)
BACKWARD = pairwise_cases(
    {
        **SIZES,
        "mask": MASKS,
        "bias": ["none", *BIASES],
        "top_k": [None, 5],
        "memory_batch": [1, 2],
        "budget": ["default", "few queries"],
    },
    allowed=queries_fit,
)


def set_budget(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    sizes = sizes_of(case)
    budgets = {"few queries": 2 * sizes.heads * sizes.kv_len * 5, "one query": 1}
    monkeypatch.setattr(eager, "BUDGET", budgets.get(case["budget"], eager.BUDGET))


def options_of(case: Case, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    sizes = sizes_of(case)
    named = options(sizes, case["mask"], dtype) | {"top_k": case["top_k"]}
    return named if case["bias"] == "none" else named | {"memory_bias": memory_bias(sizes, case["bias"])}


@pytest.mark.parametrize("case", FORWARD, ids=case_id)
def test_outputs_match_naive(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    set_budget(monkeypatch, case)
    inputs = tensors(sizes_of(case), case["dtype"], memory_batch=case["memory_batch"])
    inputs[0].requires_grad_(case["gradients"])
    named = options_of(case, case["dtype"])
    assert_close(naive(*inputs, **named), memory_attention(*inputs, **named))


@pytest.mark.parametrize("case", BACKWARD, ids=case_id)
def test_gradients_match_naive(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    set_budget(monkeypatch, case)
    inputs, named = tensors(sizes_of(case), memory_batch=case["memory_batch"]), options_of(case)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    if case["mask"] == "additive":
        leaves.append(named["mask"].requires_grad_())
    if case["bias"] != "none":
        leaves.append(named["memory_bias"].requires_grad_())
    outputs = [attend(*inputs, **named) for attend in (naive, memory_attention)]
    cotangent = torch.randn_like(outputs[0])
    expected, actual = (
        torch.autograd.grad(output, leaves, cotangent, materialize_grads=True) for output in outputs
    )
    assert_close(outputs[0], outputs[1])
    for expected_gradient, gradient in zip(expected, actual, strict=True):
        assert_close(expected_gradient, gradient)


@pytest.mark.parametrize("top_k", [17, 18, 1000])
def test_top_k_of_all_is_none(top_k: int) -> None:
    sizes = Sizes(4, 4, 2, 63, 17, 64)
    inputs, named = tensors(sizes), options(sizes)
    assert torch.equal(memory_attention(*inputs, **named, top_k=top_k), memory_attention(*inputs, **named))
    assert_close(naive(*inputs, **named), naive(*inputs, **named, top_k=top_k))


def test_top_k_of_one_returns_the_value_of_the_best_key() -> None:
    sizes = Sizes(4, 2, 3, 1, 17, 8)
    query, key, value, memory_query, memory_key, memory_value = tensors(sizes)
    nothing = torch.zeros(1, 1, 3, 1, dtype=torch.bool)
    output = memory_attention(
        query, key, value, memory_query, memory_key, memory_value, mask=nothing, scaling=1.0, top_k=1
    )
    for head in range(4):
        best = (memory_query[1, head] @ memory_key[1, head // 2].T).argmax(dim=-1)
        assert torch.allclose(output[1, head], memory_value[1, head // 2][best])


@pytest.mark.parametrize("q_len", [1, 63])
def test_a_memory_for_the_batch_is_a_memory_for_each_sample(q_len: int) -> None:
    sizes = Sizes(14, 2, q_len, 63, 17, 64)
    inputs, named = tensors(sizes, memory_batch=1), options(sizes, "boolean")
    repeated = [*inputs[:4], *(tensor.repeat(2, 1, 1, 1) for tensor in inputs[4:])]
    assert_close(naive(*repeated, **named), memory_attention(*inputs, **named))


def test_strides_do_not_matter() -> None:
    sizes = Sizes(14, 2, 63, 130, 17, 64)
    inputs, named = tensors(sizes), options(sizes, "causal")
    by_position = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in inputs]
    transposed = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in inputs]
    for strided in (by_position, transposed):
        assert_close(naive(*inputs, **named), memory_attention(*strided, **named))


def test_masks_may_lack_dimensions_and_be_of_another_type() -> None:
    sizes = Sizes(4, 2, 2, 9, 5, 16)
    inputs, named = tensors(sizes, torch.bfloat16), options(sizes)
    visible = torch.tensor([True] * 6 + [False] * 3)
    for mask in (visible, visible.expand(2, 9), torch.zeros(1, 9).masked_fill(~visible, -3e38)):
        expected = naive(*inputs, **named, mask=mask)
        assert_close(expected, memory_attention(*inputs, **named, mask=mask))
        assert_close(memory_attention(*inputs, **named, mask=visible), expected)


@pytest.mark.parametrize("learns", [False, True])
def test_a_query_without_local_keys_sees_the_memory_and_without_memory_nothing(learns: bool) -> None:
    sizes = Sizes(4, 2, 3, 9, 5, 16)
    inputs = tensors(sizes)
    inputs[0].requires_grad_(learns)
    mask = torch.ones(2, 1, 3, 9, dtype=torch.bool)
    mask[1, :, 1] = False
    output = memory_attention(*inputs, mask=mask, scaling=0.25)
    keys, values = (tensor[1].repeat_interleave(2, dim=0) for tensor in inputs[4:])
    alone = (inputs[3][1] @ keys.transpose(-1, -2) * 0.25).softmax(dim=-1) @ values
    assert torch.allclose(output[1, :, 1], alone[:, 1])

    empty = [*inputs[:4], *(tensor[:, :, :0] for tensor in inputs[4:])]
    output = memory_attention(*empty, mask=mask, scaling=0.25)
    assert torch.equal(output[1, :, 1], torch.zeros_like(output[1, :, 1]))
    assert output.isfinite().all()


def test_no_local_keys_at_all() -> None:
    sizes = Sizes(4, 2, 3, 0, 5, 16)
    inputs = tensors(sizes)
    assert_close(naive(*inputs, scaling=1.0), memory_attention(*inputs, scaling=1.0))
    nothing = [*inputs[:4], *(tensor[:, :, :0] for tensor in inputs[4:])]
    assert not memory_attention(*nothing, scaling=1.0).any()


@pytest.mark.parametrize("memory_len", [0, 5])
@pytest.mark.parametrize("learns", [False, True])
def test_the_lowest_number_hides_a_key_too(memory_len: int, learns: bool) -> None:
    """Some masks have it instead of -inf: a query with no visible key then weights all local keys equally, as softmax does."""
    sizes = Sizes(4, 2, 3, 9, memory_len, 16)
    inputs, named = tensors(sizes, torch.float32), options(sizes)
    mask = torch.zeros(2, 1, 3, 9)
    mask[0] = mask[1, :, 1, 2:] = torch.finfo(torch.float32).min
    expected = naive(*inputs, **named, mask=mask)
    inputs[0].requires_grad_(learns)
    assert_close(expected, memory_attention(*inputs, **named, mask=mask))


def rotate(tensor: Tensor, positions: Tensor) -> Tensor:
    """[..., length, head_dim] rotated as Llama and Qwen do it, to one position for each of ``length``."""
    half = tensor.shape[-1] // 2
    angles = positions[:, None].double() * 1e4 ** (-torch.arange(half) / half)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    return tensor * cos + torch.cat((-tensor[..., half:], tensor[..., :half]), dim=-1) * sin


@pytest.mark.parametrize("positions", [[120], [120, 120, 120], [100, 101, 102]], ids=str)
@pytest.mark.parametrize("learns", [False, True])
def test_moving_keys_into_memory_changes_nothing(positions: list[int], learns: bool) -> None:
    """Keys that share position p are, for a query at t, unrotated keys at distance t - p: what memory holds."""
    first, shared = 11, 20
    query, key, value, *_ = tensors(Sizes(14, 2, len(positions), 11 + 30, 0, 64))
    key_at, query_at = (
        torch.cat((torch.full((first,), shared), torch.arange(60, 90))),
        torch.tensor(positions),
    )
    query.requires_grad_(learns)
    rotated, at = rotate(query, query_at), rotate(key, key_at)
    none = key[:, :, :0]
    whole = naive(rotated, at, value, query, none, none, scaling=0.125)
    split = memory_attention(
        rotated, at[:, :, first:], value[:, :, first:],
        rotate(query, query_at - shared), key[:, :, :first], value[:, :, :first], scaling=0.125,
    )  # fmt: skip
    assert_close(whole, split)


def test_without_memory_it_is_scaled_dot_product_attention() -> None:
    sizes = Sizes(14, 2, 63, 63, 0, 64)
    query, key, value, *memory = tensors(sizes)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.1, enable_gqa=True
    )
    assert_close(expected, memory_attention(query, key, value, *memory, is_causal=True, scaling=0.1))


def test_merge_joins_any_split_of_the_keys() -> None:
    torch.manual_seed(42)
    scores, values = torch.randn(3, 5, 20, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64)
    scores[0, 0, :7] = -torch.inf  # nothing in the first part
    pieces = [slice(0, 7), slice(7, 8), slice(8, 20)]
    outputs = [scores[..., piece].softmax(dim=-1).nan_to_num(0) @ values[piece] for piece in pieces]
    output, logsumexp = merge(outputs, [scores[..., piece].logsumexp(dim=-1) for piece in pieces])
    assert_close(scores.softmax(dim=-1) @ values, output)
    assert_close(scores.logsumexp(dim=-1), logsumexp)
    with pytest.raises(ValueError, match="not 3 and 0"):
        merge(outputs, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: (14, 3, 8)}, r"query is expected to be \[batch, .*rather than \[14, 3, 8\]"),
        ({1: (2, 4, 9, 8), 2: (2, 4, 9, 8)}, "multiple of 4, those of key, rather than 14"),
        ({2: (2, 2, 8, 8)}, r"value is expected to be \[2, 2, 9, 8\] rather than \[2, 2, 8, 8\]"),
        ({3: (2, 14, 1, 8)}, r"memory_query is expected to be \[2, 14, 3, 8\] rather than"),
        ({4: (3, 2, 5, 8)}, r"memory_key is expected to be \[2, 2, 5, 8\] rather than \[3, 2, 5, 8\]"),
        ({4: (2, 5, 8)}, r"memory_key is expected to be \[2, 2, memory_len, 8\] rather than \[2, 5, 8\]"),
        ({5: (1, 2, 5, 8)}, r"memory_value is expected to be \[2, 2, 5, 8\] rather than \[1, 2, 5, 8\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(changes: dict[int, tuple[int, ...]], message: str) -> None:
    inputs = tensors(Sizes(14, 2, 3, 9, 5, 8))
    for index, shape in changes.items():
        inputs[index] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        memory_attention(*inputs, scaling=1.0)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"mask": torch.ones(2, 1, 3, 8)}, r"broadcast to \[2, 14, 3, 9\] rather than be \[2, 1, 3, 8\]"),
        ({"mask": torch.ones(1, 1, 1, 1, 9)}, r"rather than be \[1, 1, 1, 1, 9\]"),
        ({"top_k": 0}, "at least 1 rather than 0"),
        ({"memory_bias": torch.zeros(4)}, r"memory_bias is expected to be \[5\].* rather than \[4\]"),
        ({"memory_bias": torch.zeros(3, 5)}, r"expected to be \[5\].* rather than \[3, 5\]"),
        ({"memory_bias": torch.tensor(0.0)}, r"expected to be \[5\].* rather than \[\]"),
        ({"memory_bias": torch.ones(5, dtype=torch.bool)}, r"float32, logs of weights, not torch\.bool"),
    ],
)
def test_options_that_do_not_fit_are_named(named: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory_attention(*tensors(Sizes(14, 2, 3, 9, 5, 8)), **named, scaling=1.0)


def test_causal_queries_need_keys_of_their_own() -> None:
    with pytest.raises(ValueError, match="at most kv_len, 9, rather than 10"):
        memory_attention(*tensors(Sizes(14, 2, 10, 9, 5, 8)), is_causal=True, scaling=1.0)
