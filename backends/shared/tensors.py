"""Writing tensors: safetensors files that only their owner can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. Tensors may be views of any layout.

    Raises:
        OSError: it cannot be written, for instance because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(own, path, dict(metadata or {}))
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error
    path.chmod(0o600)


def save_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write NumPy arrays of any layout as a safetensors file.

    Raises:
        OSError: it cannot be written, for instance because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error
    path.chmod(0o600)
