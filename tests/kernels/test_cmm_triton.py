"""The Triton program of correlation matrices, in Triton's interpreter or on a GPU, against the equations."""

from __future__ import annotations

import pytest
import torch

from memagent.kernels.cmm import naive
from tests.kernels.test_cmm import CASES, assert_same_sums, case_name, pairs_of
from tests.kernels.triton_process import needs_triton, tensors_with_triton

pytestmark = needs_triton

SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from memagent.kernels.cmm import accumulate, fused
from tests.kernels.test_cmm import CASES, pairs_of

calls = []
fused_version = fused.accumulate
fused.accumulate = lambda *args, **named: calls.append(1) or fused_version(*args, **named)
device = "cuda" if torch.cuda.is_available() else "cpu"
results = {}
for index, case in enumerate(CASES):
    matrix, keys, values = (tensor.to(device) for tensor in pairs_of(case))
    accumulate(matrix, keys, values, subtract=case["subtract"])
    results[str(index)] = matrix.cpu()
assert len(calls) == sum(case["pairs"] > 0 for case in CASES), "another version ran"
save_file(results, sys.argv[1])
"""


@pytest.fixture(scope="module")
def fused_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The matrix of every case, from a process in which the public function runs Triton."""
    return tensors_with_triton(SCRIPT, tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case_name(case) for case in CASES])
def test_the_program_matches_naive(index: int, fused_results: dict[str, torch.Tensor]) -> None:
    case = CASES[index]
    expected, keys, values = pairs_of(case)
    naive.accumulate(expected, keys, values, subtract=case["subtract"])
    assert_same_sums(fused_results[str(index)], expected)
