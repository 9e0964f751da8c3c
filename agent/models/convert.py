"""GGUF to safetensors, once: transformers takes some 20 seconds to read a GGUF file, 1 to load the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from memagent.agent.files import make_private
from memagent.agent.models.folder import check_complete, check_counts, check_sizes, model_errors
from memagent.agent.models.gguf_file import GgufHeader, read_header
from memagent.agent.models.hub import Notify, sha256_of
from memagent.backends.errors import ModelError

_FORMAT = 1
_MANIFEST = "converted.json"


def converted(gguf: Path, sha256: str, target: Path, *, notify: Notify) -> Path:
    """Return a folder that transformers loads, made from ``gguf`` if it is not there or not whole.

    Weights become bfloat16, which holds a 4-bit weight's value to one part in 256.

    Args:
        sha256: of the GGUF file; a folder made from other bytes is made again.
        target: the folder to make.

    Raises:
        ModelError: the file is no GGUF file, is damaged, or is of a kind that transformers cannot read.
    """
    if not damage(target, sha256):  # needs no lock, so that a folder that may only be read will do
        return target
    make_private(target.parent, "MEMAGENT_MODELS")
    try:
        with FileLock(target.parent / f".{target.name}.lock", mode=0o600):
            wrong = damage(target, sha256)
            if wrong:
                header = read_header(gguf)
                if target.exists():
                    notify(f"{target} is not usable ({wrong}); converting it again.")
                else:
                    notify(f"Converting {gguf.name} once, for fast loading (about half a minute)")
                _replace(gguf, header, sha256, target)
    except OSError as error:
        raise ModelError(
            f"The converted form of {gguf} cannot be stored in {target.parent}: {error.strerror or error}. "
            "Free some space or mend the folder's rights, and try again."
        ) from error
    return target


def _replace(gguf: Path, header: GgufHeader, sha256: str, target: Path) -> None:
    """Convert into a new folder, which then takes the place of ``target``."""
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    make_private(fresh, "MEMAGENT_MODELS")
    try:
        _convert(gguf, header, fresh)
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(fresh.iterdir())
        }
        manifest = {"format": _FORMAT, "source_sha256": sha256, "files": files}
        (fresh / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    fresh.replace(target)


def damage(target: Path, sha256: str, *, thorough: bool = False) -> str:
    """Say what is wrong with a converted model, or return an empty text.

    Looks at names and sizes; with ``thorough`` at every byte.
    """
    try:
        manifest = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT or manifest["source_sha256"] != sha256:
            return "it was made from another file or by another version"
        for name, expected in manifest["files"].items():
            size = (target / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size:,} bytes, expected {expected['size']:,}"
            if thorough and (found := sha256_of(target / name)) != expected["sha256"]:
                return f"{name} has SHA-256 {found}, expected {expected['sha256']}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, ModelError) as error:
        return f"its list of files cannot be read: {error}"
    return ""


def _convert(gguf: Path, header: GgufHeader, target: Path) -> None:
    from memagent.agent.models.runtime import torch, transformers

    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    with model_errors(f"{gguf} cannot be converted"):
        check_counts(header.architecture_values, len(header.tensors), str(gguf))
        config = transformers.AutoConfig.from_pretrained(**source)
        check_sizes(config, sum(header.tensors.values()), str(gguf))
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            **source,
            dtype=torch.bfloat16,
            quantization_config=transformers.GgufConfig(dequantize=True),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the report names them
        )
        check_complete(report, str(gguf))
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
