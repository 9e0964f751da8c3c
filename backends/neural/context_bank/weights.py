"""The file of an autoencoder's weights: safetensors, matrices in 8 bit with one scale for each row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memagent.backends.neural.context_bank.autoencoder import LatentAutoencoder
from memagent.backends.neural.context_bank.config import LatentConfig

FORMAT = 1
_HEAD = "context_bank"


class WeightsError(ValueError):
    """A file of weights is damaged or of another format."""


def save(autoencoder: LatentAutoencoder, path: Path, card: Mapping[str, Any]) -> None:
    """Write the weights to a file, which is replaced if it exists.

    Args:
        autoencoder: What is written.
        path: A ``.safetensors`` file.
        card: What the weights were made of and how well they do, as JSON can hold it.
    """
    head = {"format": FORMAT, "config": asdict(autoencoder.config), "card": dict(card)}
    tensors: dict[str, Tensor] = {}
    for name, tensor in autoencoder.state_dict().items():
        if tensor.dim() == 2:
            scale = tensor.abs().amax(dim=1).clamp(min=1e-12) / 127
            tensors[name] = (tensor / scale[:, None]).round().to(torch.int8)
            tensors[f"{name}.scale"] = scale
        else:
            tensors[name] = tensor
    # One entry, because safetensors writes several in no fixed order.
    save_file(tensors, path, metadata={_HEAD: json.dumps(head, sort_keys=True)})


def load(path: Path) -> LatentAutoencoder:
    """Return the autoencoder of a file, in evaluation mode.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: The file is damaged, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            head = json.loads(file.metadata()[_HEAD])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if head["format"] != FORMAT:
            raise WeightsError(f"{path.name} is of format {head['format']}; expected {FORMAT}")
        autoencoder = LatentAutoencoder(LatentConfig(**head["config"]))
        autoencoder.load_state_dict(
            {
                name: tensor.float() * tensors[f"{name}.scale"][:, None]
                if tensor.dtype == torch.int8
                else tensor
                for name, tensor in tensors.items()
                if not name.endswith(".scale") or name == "scale"
            }
        )
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path.name} holds no weights of a context bank ({error})") from error
    return autoencoder.eval().requires_grad_(False)


def card_of(path: Path) -> dict[str, Any]:
    """Return the card of a file that ``save`` wrote."""
    with safe_open(path, framework="pt") as file:
        card: dict[str, Any] = json.loads(file.metadata()[_HEAD])["card"]
    return card
