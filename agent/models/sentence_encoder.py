"""Sentence encoders of Hugging Face: a transformer, pooling and normalisation, as sentence-transformers stores them.

A folder may have, by the conventions of sentence-transformers (sbert.net, "Creating Custom Models"):

    modules.json                          the modules in order: Transformer, Pooling, Dense, Normalize
    sentence_bert_config.json             ``max_seq_length``, in tokens
    config_sentence_transformers.json     ``prompts``: what is written before queries and before stored texts
    1_Pooling/config.json                 how a vector is made of the hidden states of a text's tokens
    2_Dense/config.json, model.safetensors  a linear layer with an activation

A folder without ``modules.json`` is pooled by the mean, as sentence-transformers does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from memagent.agent.models.folder import check_complete, check_folder, model_errors
from memagent.agent.models.hub import sha256_of
from memagent.backends.errors import ModelError
from memagent.backends.protocol import Vectors
from memagent.backends.shared.tokens import without_added_tokens

_CONVENTIONS = "config_sentence_transformers.json"
_LIMITS = "sentence_bert_config.json"
_MODULES = "modules.json"
_BATCH = 32
_DEFAULT_MAX_TOKENS = 512
"""Tokens read of a text where a folder names no limit: encoders are hardly trained on longer texts."""
_POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}
_QUERY_PROMPTS = ("query",)
_TEXT_PROMPTS = ("document", "passage", "corpus")


class SentenceEncoder:
    """Turns a text into one vector: pooled hidden states of a transformer, scaled to length 1.

    Its weights are read with the first text; its other files when ``check``, a size or the digest first needs them. Weights are computed with in float32.

    Args:
        name: of the model, for messages and stored states.
        folder: returns the folder of its files; may fetch them.
        digest: identifies the weights; None: it is computed from the files.
        dimension: length of a vector; None: as the folder says.
        max_tokens: longest text in tokens; None: as the folder says.
        remedy: a sentence about what to do if the files are damaged.

    Source: Reimers and Gurevych, Sentence-BERT (arXiv 1908.10084).
    """

    def __init__(
        self,
        name: str,
        folder: Callable[[], Path],
        *,
        digest: str | None = None,
        dimension: int | None = None,
        max_tokens: int | None = None,
        remedy: str = "",
    ) -> None:
        self.name = name
        self._get_folder = folder
        self._digest = digest
        self._dimension = dimension
        self._max_tokens = max_tokens
        self._remedy = remedy

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts that are stored; tokens beyond ``max_tokens`` are ignored.

        Args:
            texts: any number of texts.

        Returns:
            float32 ``[texts, dimension]``, each row of length 1, or 0 for a text without tokens. A higher dot product means
            a more similar meaning.

        Raises:
            ModelError: the files cannot be fetched, verified or loaded.
        """
        return self._embed(texts, self._prompt(_TEXT_PROMPTS))

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed questions: the same, after the model's prompt for queries, if it has one."""
        return self._embed(texts, self._prompt(_QUERY_PROMPTS))

    def check(self) -> None:
        """Read what the files say about the model, but not its weights.

        Raises:
            ModelError: they cannot be fetched, are damaged, or are no sentence encoder's.
        """
        prompts = self._prompt(_QUERY_PROMPTS), self._prompt(_TEXT_PROMPTS)
        for _ in (self.dimension, self.max_tokens, self._pooling, self._tokenizer, prompts):
            pass

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the weights, the tokenizer, and how they are used; the catalogue's digest for its models."""
        if self._digest is not None:
            return self._digest
        files = [*self._folder.glob("*.safetensors"), *self._folder.glob("*.json")]
        files += [*self._folder.glob("*/config.json"), *self._folder.glob("*/*.safetensors")]
        sums = [f"{file.relative_to(self._folder)} {sha256_of(file)}" for file in sorted(files)]
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()

    @cached_property
    def dimension(self) -> int:
        """Length of a vector."""
        if self._dimension is not None:
            return self._dimension
        return len(self._dense[-1][0]) if self._dense else self._width

    @cached_property
    def max_tokens(self) -> int:
        """Longest text that is read, in tokens."""
        if self._max_tokens is not None:
            return self._max_tokens
        limit = self._json(_LIMITS).get("max_seq_length") or _DEFAULT_MAX_TOKENS
        if not isinstance(limit, int):
            raise self._damaged(_LIMITS, f"expected max_seq_length in tokens, not {limit!r}")
        return min(limit, getattr(self._config, "max_position_embeddings", None) or limit)

    def _embed(self, texts: Sequence[str], prompt: str) -> Vectors:
        """Embed texts in batches of similar length, each after a prompt. The first call loads the weights."""
        from memagent.agent.models.runtime import torch

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(by_length), _BATCH):
            rows = by_length[start : start + _BATCH]
            batch = [(prompt + texts[row]).encode("utf-8", "replace").decode() for row in rows]
            with torch.inference_mode(), model_errors(f"{self.name} cannot embed texts", self._remedy):
                by_row = dict(zip(rows, self._tokenizer.encode_batch(batch), strict=True))
                encodings = {
                    row: encoding for row, encoding in by_row.items() if any(encoding.attention_mask)
                }
                if not encodings:
                    continue
                ids = torch.tensor([encoding.ids for encoding in encodings.values()])
                mask = torch.tensor([encoding.attention_mask for encoding in encodings.values()])
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                pooled = pool(hidden, mask, self._pooling)
                for weight, bias, activation in self._dense:
                    pooled = activation(torch.nn.functional.linear(pooled, weight, bias))
                vectors[list(encodings)] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return vectors

    def _prompt(self, names: Sequence[str]) -> str:
        """Return the first of these prompts that the folder has, else its default prompt, else an empty text."""
        conventions = self._json(_CONVENTIONS)
        prompts = conventions.get("prompts") or {}
        if not isinstance(prompts, dict):
            raise self._damaged(_CONVENTIONS, "expected prompts by name")
        names = [*names, str(conventions.get("default_prompt_name"))]
        prompt = next((prompts[name] for name in names if name in prompts), None) or ""
        if not isinstance(prompt, str):
            raise self._damaged(_CONVENTIONS, f"expected a prompt in quotes, not {prompt!r}")
        return prompt

    @cached_property
    def _folder(self) -> Path:
        """The folder of the files, which may be fetched now."""
        return self._get_folder()

    @cached_property
    def _config(self) -> Any:
        """The config of transformers: models name their sizes differently in their files."""
        from memagent.agent.models.runtime import transformers

        if self._digest is None:  # nobody has compared its files with pinned ones
            check_folder(self._folder, "AutoModel")
        with model_errors(f"{self._folder / 'config.json'} cannot be used", self._remedy):
            config = transformers.AutoConfig.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False
            )
        if config.is_encoder_decoder:
            raise ModelError(f"{self.name} is an encoder with a decoder; expected an encoder alone.")
        return config

    @cached_property
    def _width(self) -> int:
        """Length of a token's hidden state."""
        with model_errors(f"{self._folder / 'config.json'} cannot be used", self._remedy):
            return int(self._config.hidden_size)

    @cached_property
    def _modules(self) -> list[tuple[str, Path]]:
        """Kind and folder of each module after the transformer; empty if the folder does not name its modules."""
        listed = self._json(_MODULES, list)
        if not all(isinstance(module, dict) for module in listed):
            raise self._damaged(_MODULES, "expected a type and a path for each module")
        kinds = [str(module.get("type", "")).rpartition(".")[2] for module in listed]
        layers = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
        if listed and (kinds[:2] != ["Transformer", "Pooling"] or {*layers} - {"Dense"}):
            raise ModelError(
                f"{self.name} is made of {', '.join(kinds)}; expected Transformer, Pooling, any Dense, and Normalize at "
                "most at the end. Choose another embedder."
            )
        paths = [Path(str(module.get("path", ""))) for module in listed]
        for path in paths:
            if path.is_absolute() or ".." in path.parts:
                raise self._damaged(_MODULES, f"{path} is outside the folder")
        return list(zip(kinds, paths, strict=True))[1:]

    @cached_property
    def _pooling(self) -> str:
        """How the hidden states of a text's tokens become one vector: cls, mean, max or lasttoken.

        Raises:
            ModelError: the folder does not say so, or names another way.
        """
        if not self._modules:
            return "mean"
        file = self._modules[0][1] / "config.json"
        config = self._json(file)
        if not config:
            raise self._damaged(file, "it is empty or missing; expected how the tokens' states are pooled")
        chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        modes = [str(config["pooling_mode"])] if "pooling_mode" in config else [
            _POOLING_MODES.get(key, key) for key in chosen
        ]  # fmt: skip
        known = _POOLING_MODES.values()
        if len(modes) != 1 or modes[0] not in known or config.get("include_prompt") is False:
            raise ModelError(
                f"{self.name} pools by {' and '.join(modes) or 'nothing'}; expected one of {', '.join(known)}, over the "
                "prompt too. Choose another embedder."
            )
        return modes[0]

    @cached_property
    def _dense(self) -> list[tuple[Any, Any, Callable[[Any], Any]]]:
        """Weight ``[out, in]``, bias and activation of each linear layer after pooling."""
        from memagent.agent.models.runtime import torch

        activations = {
            "Tanh": torch.tanh,
            "Identity": lambda states: states,
            "GELU": torch.nn.functional.gelu,
        }
        layers = []
        width = self._width
        for kind, folder in self._modules[1:]:
            if kind != "Dense":
                continue
            name = str(self._json(folder / "config.json").get("activation_function"))
            activation = activations.get(name.rpartition(".")[2])
            if activation is None:
                raise ModelError(
                    f"{self.name} uses the activation {name}; expected {', '.join(activations)}."
                )
            from safetensors.torch import load_file

            path = self._folder / folder / "model.safetensors"
            with model_errors(f"The weights {path} cannot be read", self._remedy):
                weights = {name: tensor.float() for name, tensor in load_file(path).items()}
                weight, bias = weights["linear.weight"], weights.get("linear.bias")
                if weight.ndim != 2 or weight.shape[1] != width:
                    raise ValueError(f"expected a matrix for {width} numbers, not {list(weight.shape)}")
            layers.append((weight, bias, activation))
            width = len(weight)
        return layers

    @cached_property
    def _tokenizer(self) -> Any:
        """The tokenizer, which cuts texts at ``max_tokens`` and pads them to one length; loaded on first use."""
        from tokenizers import Tokenizer

        file = self._folder / "tokenizer.json"
        with model_errors(f"The tokenizer {file} cannot be loaded", self._remedy):
            tokenizer = without_added_tokens(Tokenizer.from_file(str(file)))
        special_tokens = tokenizer.num_special_tokens_to_add(is_pair=False)
        if self.max_tokens <= special_tokens:  # the library would not cut texts at all
            problem = f"max_seq_length is {self.max_tokens}, and special tokens take {special_tokens}"
            raise self._damaged(_LIMITS, problem)
        tokenizer.enable_truncation(self.max_tokens)
        pad_id = getattr(self._config, "pad_token_id", None) or 0
        tokenizer.enable_padding(pad_id=pad_id, pad_token=tokenizer.id_to_token(pad_id) or "[PAD]")
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        """The transformer with float32 weights, loaded from local files on first use; ModelError if weights are missing."""
        from memagent.agent.models.runtime import LOADING, torch, transformers

        failure = f"The embedder in {self._folder} cannot be loaded"
        with LOADING, model_errors(failure, self._remedy):
            model, report = transformers.AutoModel.from_pretrained(
                self._folder,
                config=self._config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        # The pooler is a head of BERT's that sentence encoders do not use; some files leave it out.
        used = {
            key: [name for name in report[key] if "pooler." not in str(name)]
            for key in ("missing_keys", "mismatched_keys")
        }
        try:
            check_complete(used, self.name)
        except ModelError as error:
            raise ModelError(f"{failure}: {error} {self._remedy}".rstrip()) from error
        return model.eval()

    def _json(self, file: str | Path, kind: type = dict) -> Any:
        """Return the content of a JSON file of the folder, empty if there is none."""
        path = self._folder / file
        if not path.is_file():
            return kind()
        with model_errors(f"{path} is damaged", self._remedy):
            content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, kind):
            raise self._damaged(file, f"expected a JSON {'object' if kind is dict else 'array'}")
        return content

    def _damaged(self, file: str | Path, problem: str) -> ModelError:
        """Return the error for a file of the folder whose content makes no sense."""
        return ModelError(f"{self._folder / file} is damaged: {problem}. {self._remedy or 'Fetch it again.'}")


def pool(hidden: Any, mask: Any, mode: str) -> Any:
    """Make one vector of the hidden states of each text.

    Args:
        hidden: ``[texts, tokens, width]``.
        mask: ``[texts, tokens]``, 1 for tokens, 0 for padding, which stands on the right.
        mode: ``cls`` (the first token), ``mean``, ``max``, or ``lasttoken``.

    Returns:
        ``[texts, width]``.
    """
    weights = mask[..., None].to(hidden.dtype)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "max":
        return hidden.masked_fill(weights == 0, -float("inf")).amax(dim=1)
    if mode == "lasttoken":
        return hidden[range(len(hidden)), mask.sum(dim=1) - 1]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
