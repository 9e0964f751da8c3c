"""Memory attention in Triton, on a GPU or in Triton's interpreter, against the specification."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from memagent.kernels.memory_attention.naive import memory_attention as naive
from tests.kernels.memory_attention_cases import (
    BIASES,
    MASKS,
    Sizes,
    assert_close,
    memory_bias,
    options,
    tensors,
)
from tests.kernels.pairwise import Case, pairwise_cases
from tests.kernels.triton_process import needs_triton, tensors_with_triton

pytestmark = needs_triton

# Triton's interpreter does not know bfloat16: it multiplies its bits as if they were integers.
CASES = pairwise_cases(
    {
        "sizes": [
            (Sizes(6, 2, 1, 130, 17, 60), torch.float32),
            (Sizes(2, 2, 2, 63, 1, 80), torch.float16),
            (Sizes(3, 1, 63, 130, 200, 64), torch.float16),
            (Sizes(2, 2, 63, 63, 0, 80), torch.float32),
            (Sizes(2, 1, 130, 130, 17, 16), torch.float32),
        ],
        "mask": MASKS,
        "bias": ["none", *BIASES],
        "memory_batch": [1, 2],
    }
)


def call_of(case: Case) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the arguments of a case's call, the positional ones and those by name."""
    sizes, dtype = case["sizes"]
    named = {"mask": None, **options(sizes, case["mask"], dtype)}
    if case["bias"] != "none":
        named["memory_bias"] = memory_bias(sizes, case["bias"])
    return tensors(sizes, dtype, memory_batch=case["memory_batch"]), named


def case_id(case: Case) -> str:
    sizes, dtype = case["sizes"]
    return f"{sizes}-{dtype}-{case['mask']}-{case['bias']}-memory_batch={case['memory_batch']}"


SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from memagent.kernels.memory_attention.fused import memory_attention
from tests.kernels.test_memory_attention_triton import CASES, call_of

device = "cuda" if torch.cuda.is_available() else "cpu"
on_device = lambda value: value.to(device) if isinstance(value, torch.Tensor) else value
outputs = {}
for index, case in enumerate(CASES):
    inputs, named = call_of(case)
    output = memory_attention(*map(on_device, inputs), **{name: on_device(value) for name, value in named.items()})
    outputs[str(index)] = output.cpu().contiguous()
save_file(outputs, sys.argv[1])
"""


@pytest.fixture(scope="module")
def fused_outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The outputs of the Triton version for all cases, by index."""
    return tensors_with_triton(SCRIPT, tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize("index", range(len(CASES)), ids=map(case_id, CASES))
def test_fused_matches_naive(index: int, fused_outputs: dict[str, Tensor]) -> None:
    inputs, named = call_of(CASES[index])
    assert_close(naive(*inputs, **named), fused_outputs[str(index)])
