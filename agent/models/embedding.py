"""Sentence embedders: MiniLM in this process, or word hashing, which needs no weights."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_EMBEDDER, CatalogueModel
from memagent.agent.models.folder import model_errors
from memagent.agent.models.hub import Notify, Report, ensure, quiet
from memagent.backends.errors import NotFoundError
from memagent.backends.protocol import Embedder, Vectors
from memagent.backends.shared.tokens import without_added_tokens

_BATCH = 32


def load_embedder(
    models: Path, name: str | None = None, *, notify: Notify, report: Report = quiet
) -> Embedder:
    """Return an embedder. Its weights are fetched and loaded on the first text.

    Args:
        models: the folder where fetched models are kept.
        name: of the catalogue, or ``hashing``; None: ``MEMAGENT_EMBEDDER``, or all-minilm-l6-v2.
        notify: called with a sentence when something is fetched.
        report: called with the bytes that have come.

    Raises:
        NotFoundError: no embedder has that name.
    """
    model = _catalogue_embedder(name)
    if model is None:
        return HashingEmbedder()
    return SentenceEmbedder(model, lambda: ensure(model, models, notify=notify, report=report))


def fetch_embedder(models: Path, name: str | None = None, *, notify: Notify, report: Report = quiet) -> None:
    """Fetch and verify the files of an embedder without loading it.

    Args:
        models: the folder where fetched models are kept.
        name: as in ``load_embedder``.
        notify: called with a sentence when something is fetched.
        report: called with the bytes that have come.

    Raises:
        NotFoundError: no embedder has that name.
        ModelError: a file is damaged, or cannot be fetched.
    """
    model = _catalogue_embedder(name)
    if model is not None:
        ensure(model, models, notify=notify, report=report)


def _catalogue_embedder(name: str | None) -> CatalogueModel | None:
    """Return the catalogue's embedder of a name; None for the one that needs no weights."""
    name = name or os.environ.get("MEMAGENT_EMBEDDER") or DEFAULT_EMBEDDER
    if name == HashingEmbedder.name:
        return None
    embedders = {model.name: model for model in CATALOGUE.values() if model.kind == "embedder"}
    if name not in embedders:
        raise NotFoundError(
            "embedder", name, [*embedders, HashingEmbedder.name], "MEMAGENT_EMBEDDER names it."
        )
    return embedders[name]


class SentenceEmbedder:
    """A BERT sentence encoder: the mean of the last hidden states over a text's tokens, scaled to length 1.

    Cost: about 8 ms for a sentence on one core.

    Args:
        model: of the catalogue; its weights are loaded with the first text.
        folder: returns the folder of its files; may fetch them.

    Source: Reimers and Gurevych, Sentence-BERT (arXiv 1908.10084).
    """

    dimension = 384
    max_tokens = 256

    def __init__(self, model: CatalogueModel, folder: Callable[[], Path]) -> None:
        self.name = model.name
        self.digest = model.weights.sha256
        self._folder = folder
        self._remedy = f"`memagent models verify {model.name}` checks every byte of it."

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts; tokens of a text beyond the first 256 are ignored.

        Args:
            texts: any number of texts.

        Returns:
            float32 ``[texts, 384]``, each row of length 1. A higher dot product means a more similar meaning.

        Raises:
            ModelError: the weights cannot be fetched, verified or loaded.
        """
        from memagent.agent.models.runtime import torch

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(by_length), _BATCH):
            rows = by_length[start : start + _BATCH]
            encodings = self._tokenizer.encode_batch([texts[row] for row in rows])
            ids = torch.tensor([encoding.ids for encoding in encodings])
            mask = torch.tensor([encoding.attention_mask for encoding in encodings])
            with torch.inference_mode():
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                weights = mask[..., None].to(hidden.dtype)
                mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
                vectors[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        file = self._folder() / "tokenizer.json"
        with model_errors(f"The tokenizer {file} cannot be loaded", self._remedy):
            tokenizer = without_added_tokens(Tokenizer.from_file(str(file)))
        tokenizer.enable_truncation(self.max_tokens)
        tokenizer.enable_padding()
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        from memagent.agent.models.runtime import torch, transformers

        folder = self._folder()
        with model_errors(f"The embedder in {folder} cannot be loaded", self._remedy):
            model = transformers.BertModel.from_pretrained(
                folder,
                dtype=torch.float32,
                add_pooling_layer=False,
                local_files_only=True,
                use_safetensors=True,
            )
        return model.eval()


class HashingEmbedder:
    """Feature hashing of words: texts are similar if they share words. For tests and small machines."""

    name = "hashing"
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
