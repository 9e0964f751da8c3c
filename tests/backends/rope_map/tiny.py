"""Tiny random models of the supported families, and calibrated heads for them that need no calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memagent.agent.testing.tiny_model import byte_level_tokenizer
from memagent.backends.protocol import Resources
from memagent.backends.rope_map import calibration_data
from memagent.backends.rope_map.addressing import CalibratedHeads, QueryHead
from memagent.backends.rope_map.backend import RopeMap, RopeMapConfig
from memagent.backends.rope_map.tuning import DEFAULT_TUNING
from memagent.backends.rope_map.value_similarity import fit_value_similarity
from memagent.backends.shared.attention import families
from memagent.backends.shared.attention.encoder import KeysAndValues

FAMILIES = tuple(families.FAMILIES)
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 3, 4, 2, 16
QUERY_HEADS = (QueryHead(0, 1, 64), QueryHead(1, 0, 128), QueryHead(1, 3, 256))
VALUE_HEADS = ((0, 1), (1, 0))


@dataclass
class Tiny:
    """A model small enough for a test."""

    name: str
    digest: str
    model: Any
    tokenizer: Any


@cache
def tokenizer() -> Any:
    """Byte-level pairs, trained on the generated dialogues of the calibration: any text can be tokenised."""
    return byte_level_tokenizer(calibration_data.SOURCE.read_text(encoding="utf-8").splitlines(), 1000)


def config(family: str = "llama", **settings: Any) -> Any:
    """A tiny configuration; random weights large enough that attention matters."""
    import transformers

    make: Any = transformers.AutoConfig.for_model
    shape: dict[str, Any] = {
        "vocab_size": 1000,
        "hidden_size": HEADS * HEAD_DIM,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 2048,
        "initializer_range": 0.15,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    if family == "qwen2":
        del shape["head_dim"]
    return make(family, **(shape | settings))


def model_of(settings: Any, seed: int = 0) -> Any:
    """A model with random weights, biases too, in float32."""
    import transformers

    make: Any = transformers.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = make.from_config(settings, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@cache
def tiny(family: str = "llama", seed: int = 0) -> Tiny:
    """A shared model; leave it as it is."""
    return Tiny(f"tiny-{family}-{seed}", f"tiny {family} {seed}", model_of(config(family), seed), tokenizer())


def tokens(count: int, seed: int = 0) -> list[int]:
    """Draw tokens that are not special."""
    ids: list[int] = torch.randint(2, 1000, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids


def logits(model: Any, ids: Sequence[int], **options: Any) -> Tensor:
    """Return ``[tokens, vocabulary]`` of one row, without a cache."""
    with torch.inference_mode():
        output: Tensor = model(input_ids=torch.tensor([list(ids)]), use_cache=False, **options).logits
    return output[0]


def random_chunk(count: int, seed: int = 0, *, layers: int = LAYERS) -> KeysAndValues:
    """Draw keys and values of ``count`` tokens, as a model in bfloat16 gives them."""
    random = torch.Generator().manual_seed(seed)
    keys, values = (
        torch.randn(count, layers, KV_HEADS, HEAD_DIM, generator=random).bfloat16() for _ in range(2)
    )
    return KeysAndValues(keys, values)


def calibrated_heads(threshold: float = 0.0) -> CalibratedHeads:
    """Return three query heads and two value heads before a background of four chunks of five tokens."""
    random = torch.Generator().manual_seed(7)
    key_heads = {(head.layer, head.head // (HEADS // KV_HEADS)) for head in QUERY_HEADS}
    similarity = fit_value_similarity(
        VALUE_HEADS, random_chunk(200, seed=7).values, DEFAULT_TUNING.whitening_ridge
    )
    return CalibratedHeads(
        query_heads=QUERY_HEADS,
        group_size=HEADS // KV_HEADS,
        value_similarity=similarity,
        weights=torch.tensor([0.3, 0.2, 0.4, 0.3, 0.1, 0.5, 0.2, 0.2]),
        threshold=threshold,
        background_keys={key: torch.randn(20, HEAD_DIM, generator=random) for key in sorted(key_heads)},
        background_values=similarity.embed(random_chunk(20, seed=7).values),
        background_segment_ids=torch.arange(20) // 5,
        tuning=DEFAULT_TUNING,
    )


def rope_map(
    workspace: Path, local: Tiny | None = None, saved: Path | None = None, **settings: Any
) -> RopeMap:
    """Make a map in a model, or load it; replace ``calibration.calibrate`` first, or it runs."""
    workspace.mkdir(exist_ok=True)
    resources = Resources(workspace, make_embedder=_no_embedder, make_model=lambda: local or tiny())
    config = RopeMapConfig(**settings)
    return RopeMap.load(saved, config, resources) if saved else RopeMap(config, resources)


def _no_embedder() -> Any:
    raise AssertionError("The map needs no embedder.")
