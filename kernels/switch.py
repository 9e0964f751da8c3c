"""The choice between the two versions of a kernel: fused (Triton) or eager (plain PyTorch)."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

from torch import Tensor


def use_fused(tensor: Tensor) -> bool:
    """Return whether the fused version of a kernel runs on a tensor.

    It runs where Triton is installed and the tensor is on a CUDA device, or on any device if ``TRITON_INTERPRET=1`` asks for
    Triton's interpreter (https://triton-lang.org/main/programming-guide/chapter-3/debugging.html). This function does not
    import Triton.

    Args:
        tensor: Of any shape and type; only its device matters.
    """
    return (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
