"""The embedder that a name means, as given after ``--embedder``."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_EMBEDDER, CatalogueModel
from memagent.agent.models.hub import Notify, Report, encoder_folder, ensure, quiet
from memagent.agent.models.names import HUB_ID, PROVIDER, existing_path
from memagent.agent.models.sentence_encoder import SentenceEncoder
from memagent.backends.errors import ModelError, NotFoundError, SettingError
from memagent.backends.protocol import Embedder, Vectors
from memagent.backends.shared.joined_embedder import SEPARATOR, JoinedEmbedder

MULTILINGUAL = "multilingual"
HASHING = "hashing"


def load_embedder(
    models: Path, name: str | None = None, *, notify: Notify, report: Report = quiet
) -> Embedder:
    """Return an embedder. Its weights are fetched and loaded on the first text.

    Args:
        models: the folder where fetched models are kept.
        name: of the catalogue; ``multilingual``; ``hashing`` (no weights); a folder; the hub id of a sentence encoder;
            ``provider:model`` of LangChain; or several of them joined by ``+``. None: ``MEMAGENT_EMBEDDER``, or the default.
        notify: called with a sentence when something is fetched.
        report: called with the bytes that have come.

    Raises:
        NotFoundError: a name is none of these.
        SettingError: an embedder is named twice.
        MissingExtraError, ModelError: a provider cannot be set up.
    """
    embedders = [_load_part(part, models, notify, report) for part in embedder_names(name)]
    return embedders[0] if len(embedders) == 1 else JoinedEmbedder(embedders)


def fetch_embedder(models: Path, name: str | None = None, *, notify: Notify, report: Report = quiet) -> None:
    """Fetch and verify the files of an embedder without loading its weights.

    Args:
        models: the folder where fetched models are kept.
        name: as in ``load_embedder``.
        notify: called with a sentence when something is fetched.
        report: called with the bytes that have come.

    Raises:
        NotFoundError: no embedder has that name.
        SettingError: an embedder is named twice.
        MissingExtraError, ModelError: a provider cannot be set up.
        ModelError: a file is damaged, or cannot be fetched; or a folder holds no sentence encoder.
    """
    for part in embedder_names(name):
        if part in _catalogue_names():
            ensure(CATALOGUE[part], models, notify=notify, report=report)
            continue
        embedder = _load_part(part, models, notify, report)
        if isinstance(embedder, SentenceEncoder):
            embedder.check()


def embedder_names(name: str | None = None) -> list[str]:
    """Return the names of the embedders that are used together.

    Args:
        name: as in ``load_embedder``.

    Raises:
        NotFoundError: a name is none of those that ``load_embedder`` takes.
        SettingError: an embedder is named twice.
    """
    name = name or os.environ.get("MEMAGENT_EMBEDDER") or DEFAULT_EMBEDDER
    if existing_path(name) is not None:
        return [name]
    known = [*_catalogue_names(), MULTILINGUAL, HASHING]
    parts = name.split(SEPARATOR)
    for part in parts:
        if not (part in known or existing_path(part) or PROVIDER.fullmatch(part) or _is_hub_id(part)):
            hint = "The folder of a sentence encoder, its id on the hub (owner/name) or provider:model works too."
            raise NotFoundError("embedder", part, known, hint)
    repeated = next((part for part in parts if parts.count(part) > 1), None)
    if repeated is not None:
        raise SettingError(f"The embedder {name} names {repeated} twice; name each once.")
    return parts


def _catalogue_names() -> list[str]:
    return [model.name for model in CATALOGUE.values() if model.kind == "embedder"]


def _load_part(name: str, models: Path, notify: Notify, report: Report) -> Embedder:
    """Return the embedder of one name. Files are fetched and read with the first text; a provider is set up now."""
    if name == HASHING:
        return HashingEmbedder()
    if name == MULTILINGUAL:
        from memagent.backends.shared.multilingual import MultilingualEmbedder

        return MultilingualEmbedder()
    if name in _catalogue_names():
        return _catalogue_encoder(CATALOGUE[name], models, notify, report)
    path = existing_path(name)
    if path is not None:
        folder = path.absolute()  # stored memories hold the name, and are used from any folder
        return SentenceEncoder(str(folder), lambda: _checked_folder(folder))
    if PROVIDER.fullmatch(name):
        from memagent.agent.models.providers import ProviderEmbedder

        return ProviderEmbedder.from_string(name)
    return SentenceEncoder(name, lambda: encoder_folder(name, notify))


def _is_hub_id(name: str) -> bool:
    return bool(HUB_ID.fullmatch(name)) and existing_path(name) is None and not name.startswith(".")


def _catalogue_encoder(
    model: CatalogueModel, models: Path, notify: Notify, report: Report
) -> SentenceEncoder:
    """Return an encoder of the catalogue, whose files are fetched and verified with the first text."""
    return SentenceEncoder(
        model.name,
        lambda: ensure(model, models, notify=notify, report=report),
        digest=model.weights.sha256,
        dimension=model.dimension,
        max_tokens=model.max_tokens,
        remedy=f"`memagent models verify {model.name}` checks every byte of it.",
    )


def _checked_folder(path: Path) -> Path:
    if not path.is_dir():
        raise ModelError(
            f"{path} is no folder; expected one with a sentence encoder (config.json, *.safetensors)."
        )
    return path


class HashingEmbedder:
    """Feature hashing of words: texts are similar if they share words. For tests and small machines."""

    name = HASHING
    digest = "blake2b-384"
    dimension = 384
    max_tokens = 1_000_000

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 ``[texts, 384]``, each row of length 1, or 0 for a text without words."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.casefold()):
                bits = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
                row[(bits >> 1) % self.dimension] += 1.0 if bits & 1 else -1.0
            row /= max(float(np.linalg.norm(row)), 1e-6)
        return vectors

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed questions as any text."""
        return self.embed(texts)
