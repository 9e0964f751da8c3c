"""Convert a GGUF file to safetensors once, into the models folder: transformers reads GGUF in about 20 s, the result in 1 s."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from memagent.agent.files import create_private
from memagent.agent.models.folder import check_complete, check_counts, check_sizes, model_errors
from memagent.agent.models.gguf_file import GgufHeader, read_header
from memagent.agent.models.hub import Notify, sha256_of
from memagent.backends.errors import ModelError

_FORMAT = 1
_MANIFEST = "converted.json"


def ensure_converted(gguf: Path, sha256: str, target: Path, *, notify: Notify) -> Path:
    """Return a folder that transformers loads; convert ``gguf`` if the folder is missing or damaged.

    Weights become bfloat16, which holds a 4-bit weight's value to one part in 256.

    Args:
        gguf: the file to convert.
        sha256: of the GGUF file; a folder made from other bytes is made again.
        target: the folder of the converted model.
        notify: called with a sentence before a conversion, which takes about half a minute.

    Returns:
        ``target``.

    Raises:
        ModelError: the file is no GGUF file, is damaged, or is of a kind that transformers cannot read.
    """
    if not find_damage(target, sha256):  # needs no lock, so that a folder that may only be read will do
        return target
    create_private(target.parent, "MEMAGENT_MODELS")
    try:
        with FileLock(target.parent / f".{target.name}.lock", mode=0o600):
            problem = find_damage(target, sha256)
            if problem:
                header = read_header(gguf)
                if target.exists():
                    notify(f"{target} is not usable ({problem}); converting it again.")
                else:
                    notify(f"Converting {gguf.name} once, for fast loading (about half a minute)")
                _replace(gguf, header, sha256, target)
    except OSError as error:
        raise ModelError(
            f"The converted form of {gguf} cannot be stored in {target.parent}: {error.strerror or error}. "
            "Free some space or change the folder's rights, and try again."
        ) from error
    return target


def _replace(gguf: Path, header: GgufHeader, sha256: str, target: Path) -> None:
    """Convert into a new folder, which then takes the place of ``target``."""
    partial = target.with_name(target.name + ".new")
    shutil.rmtree(partial, ignore_errors=True)
    create_private(partial, "MEMAGENT_MODELS")
    try:
        _convert(gguf, header, partial)
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(partial.iterdir())
        }
        manifest = {"format": _FORMAT, "source_sha256": sha256, "files": files}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def find_damage(target: Path, sha256: str, *, thorough: bool = False) -> str:
    """Return what is wrong with a converted model; an empty text if nothing is.

    Args:
        target: the folder of the converted model.
        sha256: of the GGUF file that it must come from.
        thorough: compare every byte, not only names and sizes.
    """
    try:
        manifest = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT or manifest["source_sha256"] != sha256:
            return "it was made from another file or by another version"
        for name, expected in manifest["files"].items():
            size = (target / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size:,} bytes, expected {expected['size']:,}"
            if thorough and (digest := sha256_of(target / name)) != expected["sha256"]:
                return f"{name} has SHA-256 {digest}, expected {expected['sha256']}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, ModelError) as error:
        return f"its list of files cannot be read: {error}"
    return ""


def _convert(gguf: Path, header: GgufHeader, target: Path) -> None:
    """Load a GGUF file as bfloat16 with transformers, and write model and tokenizer to ``target``.

    Reads local files only: no network, no remote code. All weights are in memory meanwhile.
    """
    from memagent.agent.models.runtime import LOADING, torch, transformers

    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    with LOADING, model_errors(f"{gguf} cannot be converted"):
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
