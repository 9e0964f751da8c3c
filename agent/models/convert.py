"""GGUF to safetensors, once: transformers takes some 20 seconds to read a GGUF file, 1 to load the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from filelock import FileLock

from memagent.agent.home import make_private
from memagent.agent.models.fetch import Notify, sha256_of
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
        ModelError: transformers cannot read the file.
    """
    make_private(target.parent, "MEMAGENT_MODELS")
    with FileLock(target.parent / f".{target.name}.lock", mode=0o600):
        wrong = damage(target, sha256)
        if not wrong:
            return target
        if target.exists():
            notify(f"{target} is not usable ({wrong}); converting it again.")
        else:
            notify(f"Converting {gguf.name} once, for fast loading (about half a minute)")
        fresh = target.with_name(target.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        make_private(fresh, "MEMAGENT_MODELS")
        try:
            _convert(gguf, fresh)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise ModelError(f"{gguf} cannot be converted: {error}") from error
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(fresh.iterdir())
        }
        manifest = {"format": _FORMAT, "source_sha256": sha256, "files": files}
        (fresh / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        fresh.replace(target)
    return target


def damage(target: Path, sha256: str, *, thorough: bool = False) -> str:
    """Say what is wrong with a converted model, or return an empty text.

    Looks at names and sizes; with ``thorough`` at every byte.
    """
    try:
        manifest = json.loads((target / _MANIFEST).read_text())
        if manifest["format"] != _FORMAT or manifest["source_sha256"] != sha256:
            return "it was made from another file or by another version"
        for name, expected in manifest["files"].items():
            size = (target / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size:,} bytes, expected {expected['size']:,}"
            if thorough and (found := sha256_of(target / name)) != expected["sha256"]:
                return f"{name} has SHA-256 {found}, expected {expected['sha256']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its list of files cannot be read: {error}"
    return ""


def _convert(gguf: Path, target: Path) -> None:
    from memagent.agent.models.runtime import torch, transformers

    place, name = str(gguf.parent), gguf.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        place,
        gguf_file=name,
        dtype=torch.bfloat16,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
