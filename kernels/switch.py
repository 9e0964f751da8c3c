"""Which version of a kernel runs: the Triton one, or the one in plain torch."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

from torch import Tensor


def fused(tensor: Tensor) -> bool:
    """Say whether the Triton version is to run on a tensor: any shape, any type.

    It is where Triton is installed and the tensor lies on a CUDA device, or on any device where the interpreter is asked
    for by ``TRITON_INTERPRET=1`` (https://triton-lang.org/main/programming-guide/chapter-3/debugging.html). Triton is not
    imported to find out.
    """
    return (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
