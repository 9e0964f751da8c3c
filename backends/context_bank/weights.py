"""Which file holds the autoencoder of a model: one that is shipped, or one that was trained here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from memagent.backends.errors import ModelError, SettingError
from memagent.backends.neural.context_bank.autoencoder import LatentAutoencoder
from memagent.backends.neural.context_bank.weights import WeightsError, load
from memagent.backends.protocol import LocalModel

FOLDER = Path(__file__).with_name("weights")
SHIPPED = {
    (
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        16,
    ): "f83579c4c3979e0c4522aa0ff48b48b6d2ee1042d9c5960adf4fb12919bde5fd",
}
"""SHA-256 of the files in ``FOLDER``, by digest of the model and ratio."""


@dataclass(frozen=True)
class Weights:
    """An autoencoder with the digest of its file.

    Attributes:
        autoencoder: for one model.
        sha256: of its file.
    """

    autoencoder: LatentAutoencoder
    sha256: str


def file_name(local: LocalModel, ratio: int) -> str:
    """Return the name of the file for a model and a ratio."""
    return f"context_bank-{local.digest[:16]}-{ratio}.safetensors"


def find(local: LocalModel, ratio: int, cache: Path | None) -> Path | None:
    """Return the file of a model's autoencoder; None if there is none."""
    folders = [folder for folder in (FOLDER, cache) if folder is not None]
    files = (folder / file_name(local, ratio) for folder in folders)
    return next((file for file in files if file.exists()), None)


def load_weights(local: LocalModel, ratio: int, cache: Path | None) -> Weights:
    """Return the autoencoder of a model.

    Raises:
        SettingError: there is none.
        ModelError: its file is damaged. A stored state that needs it is kept.
    """
    path = find(local, ratio, cache)
    if path is None:
        raise SettingError(
            f"The context bank has no weights for {local.name} at {ratio} tokens a vector. Train them: `memagent backends train "
            f"context_bank --set context_bank.ratio={ratio} --set context_bank.text=FILE.txt` with the same --model; it says first how "
            "long it takes."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pinned = SHIPPED.get((local.digest, ratio))
    if path.parent == FOLDER and pinned is not None and digest != pinned:
        raise ModelError(
            f"{path.name} is not the file that memagent was shipped with; install memagent again"
        )
    try:
        return Weights(_load(path, digest), digest)
    except WeightsError as error:
        raise ModelError(f"{error}; remove {path} and train it again") from error


@lru_cache(maxsize=4)
def _load(path: Path, digest: str) -> LatentAutoencoder:
    """Return the autoencoder of a file; all memories of a process share it."""
    return load(path)
