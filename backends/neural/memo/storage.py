"""The stored state of a memory: one safetensors file, checked by a digest of its settings and every byte."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from memagent.backends.neural.memo.memory import MeMoMemory
from memagent.backends.neural.memo.settings import MeMoSettings

FORMAT = 1
"""The version of the file's format."""


class StateError(ValueError):
    """A stored state is damaged, of another format, or no state of a MeMo memory."""


def digest(memory: MeMoMemory) -> str:
    """Return the SHA-256 of a memory's settings and packed state, as hexadecimal digits."""
    memory.pack()
    result = hashlib.sha256(json.dumps(asdict(memory.settings), sort_keys=True).encode())
    for name, tensor in sorted(memory.named_buffers()):
        result.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        result.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return result.hexdigest()


def save(memory: MeMoMemory, path: Path) -> None:
    """Write the state to a file. The same state gives the same bytes.

    Args:
        memory: What is stored: matrices, counts of hashes and settings; no text, no token.
        path: A ``.safetensors`` file, which is replaced if it exists.
    """
    head = {"format": FORMAT, "settings": asdict(memory.settings), "sha256": digest(memory)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in memory.named_buffers()}
    # One entry, because safetensors writes several in no fixed order.
    save_file(tensors, path, metadata={"memo": json.dumps(head, sort_keys=True)})


def load(path: Path) -> MeMoMemory:
    """Return the memory that a file holds.

    Args:
        path: A file that `save` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        StateError: The file is damaged, of another format, or no state of a MeMo memory.
    """
    try:
        with safe_open(path, framework="pt") as file:
            head = json.loads((file.metadata() or {})["memo"])
            if head["format"] != FORMAT:
                raise StateError(f"{path} is expected to have format {FORMAT} rather than {head['format']}")
            memory = MeMoMemory(MeMoSettings(**head["settings"]), len(file.get_tensor("hashes")))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"{path} is damaged, or no state of a MeMo memory: {error}") from error
    restore(memory, tensors, str(head["sha256"]), str(path))
    return memory


def restore(memory: MeMoMemory, tensors: dict[str, Any], expected: str, origin: str) -> None:
    """Fill an empty memory with stored tensors.

    Args:
        memory: Made with the number of stored windows.
        tensors: By the names of the memory's buffers.
        expected: The `digest` of the stored memory.
        origin: What the tensors come from, for messages.

    Raises:
        StateError: Names, shapes, types or bytes are not those of the stored memory.
    """
    shapes = {name: (buffer.dtype, buffer.shape) for name, buffer in memory.named_buffers()}
    actual = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    if actual != shapes:
        different = sorted(name for name in {*shapes, *actual} if shapes.get(name) != actual.get(name))
        raise StateError(
            f"{origin} is damaged: {', '.join(different)} have another type or shape than its settings"
        )
    with torch.no_grad():
        for name, buffer in memory.named_buffers():
            buffer.copy_(tensors[name])
    verify(memory, expected, origin)


def verify(memory: MeMoMemory, expected: str, origin: str) -> None:
    """Raise StateError unless the memory has an expected digest.

    Args:
        memory: Just loaded.
        expected: What `digest` returned when it was stored.
        origin: What it was loaded from, for messages.
    """
    if len(memory.hashes) and not bool((memory.hashes.diff() > 0).all() and (memory.counts > 0).all()):
        raise StateError(f"{origin} is damaged: its counts of windows are not in order")
    actual = digest(memory)
    if actual != expected:
        raise StateError(
            f"{origin} is damaged: its SHA-256 is expected to be {expected} rather than {actual}. "
            "Restore it from a copy, or memorise the texts anew"
        )
