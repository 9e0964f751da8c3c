"""Checking a model's folder before it is loaded: damaged files, and sizes that are not plausible."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memagent.backends.errors import ModelError

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
# transformers reads these as JSON objects. Others may hold arrays, such as modules.json of sentence-transformers.
_OBJECTS = {
    *(_CONFIG, "generation_config.json", "preprocessor_config.json", "processor_config.json", _INDEX),
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
    ),
}
# A packed weight of an integer tensor has at least two bits.
_PACKED_IN_A_BYTE = 4
# Positions and masks that a model computes for itself come on top of its weights.
_COMPUTED = 64_000_000
_LAYERS = frozenset({"block_count", "num_hidden_layers", "num_layers", "n_layers", "n_layer"})
_COUNT = re.compile(r"(num|n)_\w+|\w+_(count|layers)")
# More than the classes of ImageNet-21k; for a million, transformers takes 15 seconds.
_MOST_COUNTED = 100_000


def check_folder(folder: Path, auto_class: str = "AutoModelForCausalLM") -> None:
    """Check the files of a model as transformers saves it, without loading it.

    Args:
        folder: of the model.
        auto_class: the class of transformers that it is loaded with.

    Raises:
        ModelError: a file is missing or damaged, or the config describes a model far larger than the weights.
    """
    from memagent.agent.models.runtime import transformers

    files = sorted(folder.glob("*.safetensors"))
    for content, exists in ((".safetensors file", bool(files)), (_CONFIG, (folder / _CONFIG).is_file())):
        if not exists:
            raise ModelError(
                f"{folder} holds no {content}; expected a model folder as transformers saves it."
            )
    for file in sorted(folder.glob("*.json")):
        (_json_object if file.name in _OBJECTS else _json_value)(file)
    if (folder / _INDEX).is_file():
        weight_map = _json_object(folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{folder / _INDEX} is damaged: it has no weight_map. Fetch it again.")
        missing = {str(name) for name in weight_map.values()} - {file.name for file in files}
        if missing:
            raise ModelError(
                f"{folder} is incomplete: {', '.join(sorted(missing))} is missing. Fetch it again."
            )
    with model_errors(f"The weights in {folder} cannot be read"):
        counts = [count for file in files for count in _elements(file)]
    check_counts(_json_object(folder / _CONFIG), len(counts), str(folder))
    with model_errors(f"{folder / _CONFIG} cannot be used"):
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        check_sizes(config, sum(counts), str(folder), auto_class)


def check_counts(values: Mapping[str, object], tensors: int, model: str) -> None:
    """Refuse implausible counts, of layers for instance: transformers loops over them as it reads a config.

    Args:
        values: of a config, by name.
        tensors: how many there are in the files.
        model: its name, for the message.

    Raises:
        ModelError: with the count and its limit.
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            check_counts(value, tensors, model)
        last = name.rpartition(".")[2]
        most = tensors if last in _LAYERS else _MOST_COUNTED
        if isinstance(value, int) and value > most and (last in _LAYERS or _COUNT.fullmatch(last)):
            raise ModelError(
                f"{model} is damaged: its config says {name} = {value:,}; expected at most {most:,}. Fetch it again."
            )


def check_sizes(config: Any, elements: int, name: str, auto_class: str = "AutoModelForCausalLM") -> None:
    """Refuse a config that describes a model far larger than its weights, before memory is taken for it.

    Args:
        config: of transformers.
        elements: how many there are in the files.
        name: of the model, for the message.
        auto_class: the class of transformers that it is loaded with.

    Raises:
        ModelError: with both sizes.
    """
    from memagent.agent.models.runtime import torch, transformers

    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(config, trust_remote_code=False)
    described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if described > 2 * elements + _COMPUTED:
        raise ModelError(
            f"{name} is damaged: its config describes {described:,} numbers, but its files hold {elements:,}. Fetch it again."
        )


def check_complete(report: Mapping[str, Any], model: str) -> None:
    """Refuse a model whose files lack weights, or have them in another shape: transformers makes them random.

    Args:
        report: of ``from_pretrained`` with ``output_loading_info``.
        model: its name, for the message.

    Raises:
        ModelError: with some of their names.
    """
    for key, problem in (("missing_keys", "lack"), ("mismatched_keys", "have in another shape")):
        names = sorted(name if isinstance(name, str) else name[0] for name in report[key])
        if names:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            raise ModelError(
                f"{model} is incomplete: its files {problem} the weights {', '.join(names[:3])}{more}. Fetch it again."
            )


@contextmanager
def model_errors(failure: str, hint: str = "") -> Iterator[None]:
    """Turn any error while a model is read into ModelError.

    transformers, tokenizers and safetensors raise errors of many kinds; a panic in Rust is not even an Exception.

    Args:
        failure: what failed, as the message begins: "The model x cannot be loaded".
        hint: a sentence to end the message with.
    """
    try:
        yield
    except ModelError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = next(iter(str(error).strip().splitlines()), "")
        message = f"{failure}: {type(error).__name__}{': ' if reason else ''}{reason}"
        raise ModelError(f"{message.rstrip('.')}. {hint}".rstrip()) from error


def _json_value(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        ModelError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: not JSON ({error}). Fetch it again.") from error


def _json_object(file: Path) -> dict[str, Any]:
    content = _json_value(file)
    if not isinstance(content, dict):
        raise ModelError(f"{file} is damaged: expected a JSON object. Fetch it again.")
    return content


def _elements(file: Path) -> Iterator[int]:
    """Yield for each tensor of a file the most weights it can hold."""
    from math import prod

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                part = weights.get_slice(name)
                count, kind = prod(part.get_shape()), str(part.get_dtype())
                packed = kind.startswith(("I", "U"))
                yield count * int(kind.lstrip("IU")) // 8 * _PACKED_IN_A_BYTE if packed else count
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged or cut short: {error}. Fetch it again.") from error
