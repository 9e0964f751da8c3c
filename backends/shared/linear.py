"""Weights of the small linear models that are fitted once and shipped beside the code that uses them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from memagent.backends.protocol import Vectors


@cache
def named_weights(file: Path) -> Mapping[str, Mapping[str, float]]:
    """Return the sets of weights in a JSON file, by the name of the set and of the feature."""
    sets: Mapping[str, Mapping[str, float]] = json.loads(file.read_text(encoding="utf-8"))["weights"]
    return sets


@cache
def weight_vector(file: Path, name: str, features: tuple[str, ...]) -> Vectors:
    """Return one set of weights of a JSON file as float32 ``[features]``, in the order of the features."""
    weights = named_weights(file)[name]
    return np.asarray([weights[feature] for feature in features], dtype=np.float32)


@cache
def tensors(file: Path) -> Mapping[str, Vectors]:
    """Return the float32 tensors of a safetensors file by name."""
    from safetensors.numpy import load_file

    return {name: np.asarray(tensor, dtype=np.float32) for name, tensor in load_file(file).items()}


def classifier(file: Path) -> tuple[Vectors, float]:
    """Return weight ``[inputs]`` and bias of a logistic regression in a safetensors file."""
    return tensors(file)["weight"], float(tensors(file)["bias"][0])


def write_named_weights(file: Path, sets: Mapping[str, Mapping[str, float]], note: str) -> None:
    """Write what ``named_weights`` reads, with four digits, and forget what was read before."""
    rounded = {
        name: {feature: float(f"{weight:.4g}") for feature, weight in weights.items()}
        for name, weights in sets.items()
    }
    file.write_text(json.dumps({"note": note, "weights": rounded}, indent=1) + "\n", encoding="utf-8")
    named_weights.cache_clear()
    weight_vector.cache_clear()


def write_tensors(file: Path, named: Mapping[str, Vectors]) -> None:
    """Write what ``tensors`` reads, and forget what was read before. ``classifier`` needs ``weight`` and ``bias``, ``[1]``."""
    from safetensors.numpy import save_file

    save_file(dict(named), file)
    file.chmod(0o644)
    tensors.cache_clear()
