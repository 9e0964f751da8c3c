"""The Triton program of correlation matrices, in Triton's interpreter or on a GPU, against the equations."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from memagent.kernels.cmm import naive
from tests.kernels.test_cmm import CASES, assert_same_sums, case_name, pairs_of

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

# Runs in a process of its own, because Triton reads TRITON_INTERPRET when it is imported.
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
    path = tmp_path_factory.mktemp("triton") / "results.safetensors"
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return load_file(path)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case_name(case) for case in CASES])
def test_the_program_matches_naive(index: int, fused_results: dict[str, torch.Tensor]) -> None:
    case = CASES[index]
    expected, keys, values = pairs_of(case)
    naive.accumulate(expected, keys, values, subtract=case["subtract"])
    assert_same_sums(fused_results[str(index)], expected)
