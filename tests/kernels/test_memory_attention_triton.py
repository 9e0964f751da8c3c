"""Memory attention in Triton, on a GPU or in Triton's interpreter, against the specification."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
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
from memagent.kernels.memory_attention.fused import memory_attention
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
