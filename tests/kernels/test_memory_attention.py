"""Memory attention: every version against the specification, outputs and gradients, on odd sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from memagent.kernels.memory_attention import memory_attention, merge
from memagent.kernels.memory_attention import torch as fast
from memagent.kernels.memory_attention.naive import memory_attention as naive

RATIO = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


class Sizes(NamedTuple):
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    memory_len: int
    head_dim: int

    def __str__(self) -> str:
        return "h{}/{}-q{}-kv{}-m{}-d{}".format(*self)


SIZES = [
    Sizes(14, 2, 1, 1, 0, 64),
    Sizes(14, 2, 1, 130, 17, 60),
    Sizes(4, 4, 1, 63, 200, 80),
    Sizes(9, 3, 1, 1, 1, 64),
    Sizes(14, 2, 2, 63, 1, 80),
    Sizes(9, 3, 2, 130, 200, 60),
    Sizes(4, 4, 63, 63, 0, 80),
    Sizes(14, 2, 63, 63, 17, 64),
    Sizes(9, 3, 63, 130, 200, 80),
    Sizes(4, 4, 63, 130, 1, 60),
]
MASKS = ["none", "causal", "boolean", "additive", "by head", "causal and padded"]
each_size = pytest.mark.parametrize("sizes", SIZES, ids=str)
BIASES = ["weights", "some hidden", "all hidden"]
each_mask = pytest.mark.parametrize("kind", MASKS)
each_bias = pytest.mark.parametrize("bias", BIASES)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine the threads of thousands of small operations mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_close(reference: Tensor, actual: Tensor) -> None:
    """The error's root mean square is small against the reference's."""
    assert actual.dtype == reference.dtype
    assert actual.shape == reference.shape
    if not reference.numel():
        return
    wanted, got = reference.double(), actual.double()
    error = (got - wanted).square().mean().sqrt()
    assert error <= RATIO[reference.dtype] * wanted.square().mean().sqrt()


def tensors(sizes: Sizes, dtype: torch.dtype = torch.float64, *, memory_batch: int = 2) -> list[Tensor]:
    """Random query, key, value, memory query, memory key and memory value of a batch of two."""
    torch.manual_seed(42)
    heads, kv_heads, q_len, kv_len, memory_len, head_dim = sizes
    query, local = (2, heads, q_len, head_dim), (2, kv_heads, kv_len, head_dim)
    memory = (memory_batch, kv_heads, memory_len, head_dim)
    return [torch.randn(shape).to(dtype) for shape in (query, local, local, query, memory, memory)]


def options(sizes: Sizes, kind: str = "none", dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The options of a call; every mask hides all local keys from some query of the second sample."""
    torch.manual_seed(43)
    found: dict[str, Any] = {"scaling": sizes.head_dim**-0.5, "is_causal": kind.startswith("causal")}
    visible = torch.rand(2, sizes.heads if kind == "by head" else 1, sizes.q_len, sizes.kv_len) > 0.3
    visible[1, :, 0] = False
    if kind in ("boolean", "by head"):
        found["mask"] = visible
    elif kind == "additive":
        found["mask"] = torch.randn(visible.shape).to(dtype).masked_fill(~visible, -torch.inf)
    elif kind == "causal and padded":  # on the left, as tokenizers pad a batch for generation
        padding = torch.tensor([0, (sizes.kv_len + 1) // 2])
        found["mask"] = (torch.arange(sizes.kv_len) >= padding[:, None])[:, None, None]
    return found


def memory_bias(sizes: Sizes, bias: str) -> Tensor:
    torch.manual_seed(44)
    numbers = torch.randn(sizes.memory_len) * 2
    if bias == "some hidden":  # the first of two or more, so that the running maximum begins at -inf
        numbers[: sizes.memory_len * 2 // 3] = -torch.inf
    return numbers.fill_(-torch.inf) if bias == "all hidden" else numbers


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@each_mask
@each_size
def test_fused_parts_match_naive(sizes: Sizes, kind: str, dtype: torch.dtype) -> None:
    inputs, named = tensors(sizes, dtype), options(sizes, kind, dtype)
    assert_close(naive(*inputs, **named), memory_attention(*inputs, **named))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_mask
def test_materialised_scores_match_naive(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Sizes(9, 3, 63, 130, 17, 60)
    inputs, named = tensors(sizes, dtype), options(sizes, kind, dtype)
    inputs[0].requires_grad_()
    expected = naive(*inputs, **named)
    assert_close(expected, memory_attention(*inputs, **named))
    monkeypatch.setattr(fast, "BUDGET", 2 * 9 * 130 * 5)  # five queries at a time
    assert_close(expected, memory_attention(*inputs, **named))


@pytest.mark.parametrize("top_k", [None, 5])
@each_mask
@each_size
def test_gradients_match_naive(sizes: Sizes, kind: str, top_k: int | None) -> None:
    inputs, named = tensors(sizes), options(sizes, kind)
    learnt = [tensor.requires_grad_() for tensor in inputs]
    if kind == "additive":
        learnt.append(named["mask"].requires_grad_())
    outputs = [attend(*inputs, **named, top_k=top_k) for attend in (naive, memory_attention)]
    cotangent = torch.randn_like(outputs[0])
    expected, actual = (
        torch.autograd.grad(output, learnt, cotangent, materialize_grads=True) for output in outputs
    )
    assert_close(outputs[0], outputs[1])
    for want, got in zip(expected, actual, strict=True):
        assert_close(want, got)


@pytest.mark.parametrize("top_k", [1, 5, 16])
@pytest.mark.parametrize("memory_batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_top_k_matches_naive(
    top_k: int, memory_batch: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Sizes(14, 2, 63, 130, 17, 60)
    inputs, named = tensors(sizes, dtype, memory_batch=memory_batch), options(sizes, "boolean")
    expected = naive(*inputs, **named, top_k=top_k)
    assert_close(expected, memory_attention(*inputs, **named, top_k=top_k))
    monkeypatch.setattr(fast, "BUDGET", 1)  # query by query
    assert_close(expected, memory_attention(*inputs, **named, top_k=top_k))


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


@each_mask
@pytest.mark.parametrize("q_len", [1, 63])
def test_one_memory_serves_a_batch(kind: str, q_len: int) -> None:
    sizes = Sizes(14, 2, q_len, 63, 17, 64)
    inputs, named = tensors(sizes, memory_batch=1), options(sizes, kind)
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
    """Some masks hold it for -inf: a query that may see nothing then weighs all local keys alike, as in softmax."""
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
        ({"memory_bias": torch.zeros(1, 5)}, r"expected to be \[5\].* rather than \[1, 5\]"),
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


# Bfloat16 is missing: Triton's interpreter multiplies its bits as if they were integers.
TRITON_CASES = [
    (sizes, kind, dtype, bias)
    for sizes, dtype in [
        (Sizes(6, 2, 1, 130, 17, 60), torch.float32),
        (Sizes(2, 2, 2, 63, 1, 80), torch.float16),
        (Sizes(3, 1, 63, 130, 200, 64), torch.float16),
        (Sizes(2, 2, 63, 63, 0, 80), torch.float32),
        (Sizes(2, 1, 130, 130, 17, 16), torch.float32),
    ]
    for kind, bias in [*((kind, "none") for kind in MASKS), *(("boolean", bias) for bias in BIASES)]
]


def triton_call(index: int) -> tuple[list[Tensor], dict[str, Any]]:
    sizes, kind, dtype, bias = TRITON_CASES[index]
    named = {"mask": None, **options(sizes, kind, dtype)}
    if bias != "none":
        named["memory_bias"] = memory_bias(sizes, bias)
    return tensors(sizes, dtype, memory_batch=1 + index % 2), named


# A process of its own: whether Triton interprets or compiles is settled when it is first imported.
TRITON_SCRIPT = """
import sys, torch
from memagent.kernels.memory_attention.triton import memory_attention
device = "cuda" if torch.cuda.is_available() else "cpu"
on = lambda item: item.to(device) if isinstance(item, torch.Tensor) else item
torch.save([
    memory_attention(*map(on, inputs), **{name: on(item) for name, item in named.items()}).cpu()
    for inputs, named in torch.load(sys.argv[1])
], sys.argv[2])
"""


@pytest.fixture(scope="module")
def triton_outputs(tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton")
    folder: Path = tmp_path_factory.mktemp("triton")
    torch.save([triton_call(index) for index in range(len(TRITON_CASES))], folder / "calls")
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-c", TRITON_SCRIPT, str(folder / "calls"), str(folder / "outputs")]
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    found: list[Tensor] = torch.load(folder / "outputs")
    return found


@pytest.mark.parametrize(
    "index", range(len(TRITON_CASES)), ids=["-".join(map(str, case)) for case in TRITON_CASES]
)
def test_triton_matches_naive(index: int, triton_outputs: list[Tensor]) -> None:
    inputs, named = triton_call(index)
    assert_close(naive(*inputs, **named), triton_outputs[index])


def test_importing_the_kernel_imports_no_triton() -> None:
    script = "import sys, memagent.kernels.memory_attention; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
