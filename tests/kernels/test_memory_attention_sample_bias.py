"""Memory attention with a bias for each sample of the batch: outputs, gradients, and the Triton version."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memagent.kernels.memory_attention import memory_attention
from memagent.kernels.memory_attention.naive import memory_attention as naive
from tests.kernels.memory_attention_cases import Sizes, assert_close, options, tensors
from tests.kernels.triton_process import needs_triton, run_with_triton

SIZES = [Sizes(14, 2, 1, 63, 17, 60), Sizes(9, 3, 2, 130, 200, 80), Sizes(4, 4, 63, 63, 1, 16)]
each_size = pytest.mark.parametrize("sizes", SIZES, ids=str)
each_top_k = pytest.mark.parametrize("top_k", [None, 5])
each_memory_batch = pytest.mark.parametrize("memory_batch", [1, 2])


def sample_bias(sizes: Sizes) -> Tensor:
    """Weights for the first sample of two; the second sees its last memory key only."""
    torch.manual_seed(45)
    bias = torch.randn(2, sizes.memory_len) * 2
    bias[1, :-1] = -torch.inf
    return bias


@each_top_k
@each_memory_batch
@each_size
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_outputs_match_naive(sizes: Sizes, memory_batch: int, top_k: int | None, dtype: torch.dtype) -> None:
    inputs, named = tensors(sizes, dtype, memory_batch=memory_batch), options(sizes, "causal and padded")
    named |= {"memory_bias": sample_bias(sizes), "top_k": top_k}
    assert_close(naive(*inputs, **named), memory_attention(*inputs, **named))


@each_top_k
@each_memory_batch
@each_size
def test_gradients_match_naive(sizes: Sizes, memory_batch: int, top_k: int | None) -> None:
    inputs, bias = tensors(sizes, memory_batch=memory_batch), sample_bias(sizes)
    differentiated = [tensor.requires_grad_() for tensor in (*inputs, bias)]
    named = options(sizes, "boolean") | {"memory_bias": bias, "top_k": top_k}
    outputs = [attend(*inputs, **named) for attend in (naive, memory_attention)]
    cotangent = torch.randn_like(outputs[0])
    expected, actual = (
        torch.autograd.grad(output, differentiated, cotangent, materialize_grads=True) for output in outputs
    )
    for want, got in zip(expected, actual, strict=True):
        assert_close(want, got)


@each_top_k
@each_size
def test_each_sample_is_as_if_it_were_alone_with_its_bias(sizes: Sizes, top_k: int | None) -> None:
    inputs, bias = tensors(sizes), sample_bias(sizes)
    scaling = sizes.head_dim**-0.5
    both = memory_attention(*inputs, scaling=scaling, memory_bias=bias, top_k=top_k)
    for place in range(2):
        sample = [tensor[place : place + 1] for tensor in inputs]
        alone = memory_attention(*sample, scaling=scaling, memory_bias=bias[place], top_k=top_k)
        assert_close(alone, both[place : place + 1])


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (2, 1, 5), ()], ids=str)
def test_a_bias_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    inputs = tensors(Sizes(4, 2, 3, 9, 5, 16))
    with pytest.raises(ValueError, match=r"memory_bias is expected to be \[5\] or \[2, 5\]"):
        memory_attention(*inputs, scaling=1.0, memory_bias=torch.zeros(shape))


TRITON_SCRIPT = """
import sys, torch
from safetensors.torch import load_file, save_file
from memagent.kernels.memory_attention import memory_attention
device = "cuda" if torch.cuda.is_available() else "cpu"
for path in sys.argv[1:]:
    call = {name: tensor.to(device) for name, tensor in load_file(path).items()}
    bias = call.pop("memory_bias")
    output = memory_attention(*call.values(), scaling=0.125, memory_bias=bias).cpu()
    save_file({"output": output}, f"{path}.output")
assert "memagent.kernels.memory_attention.fused" in sys.modules, "the Triton version did not run"
"""


@needs_triton
def test_triton_matches_naive(tmp_path: Path) -> None:
    sizes = Sizes(6, 2, 3, 63, 130, 60)
    bias, expected = sample_bias(sizes), {}
    for memory_batch in (1, 2):
        inputs = tensors(sizes, torch.float32, memory_batch=memory_batch)
        path = str(tmp_path / f"memory_batch={memory_batch}")
        save_file({f"{place}": tensor for place, tensor in enumerate(inputs)} | {"memory_bias": bias}, path)
        expected[path] = naive(*inputs, scaling=0.125, memory_bias=bias)
    run_with_triton(TRITON_SCRIPT, *expected)
    for path, output in expected.items():
        assert_close(output, load_file(f"{path}.output")["output"])
