"""A language model with random weights that is built in a second, for tests that do not judge its output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

_VOCABULARY = 1000
_SAMPLE = (
    "The dog is called Biscuit and lives by the sea. What did I tell you about my sister? "
    "Every morning she walks to the market, and in June the water is warm enough to swim."
)


@dataclass
class TinyModel:
    """A ``LocalModel`` of three layers.

    Attributes:
        name: name of the model.
        digest: identifies the weights.
        model: a transformers Llama model.
        tokenizer: a byte-level tokenizer, which encodes any text.
    """

    name: str
    digest: str
    model: Any
    tokenizer: Any


@cache
def tiny_model(seed: int = 0) -> TinyModel:
    """Return a model with random float32 weights. All callers share it, so do not change it.

    Args:
        seed: seed of the weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.15,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
        model.eval()
    return TinyModel(f"tiny-{seed}", f"tiny llama {seed}", model, _tokenizer())


@cache
def _tokenizer() -> Any:
    return byte_level_tokenizer([_SAMPLE], _VOCABULARY)


def byte_level_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Train a tokenizer of byte pairs on texts, so that it can tokenise any text.

    Args:
        texts: what the pairs are counted in.
        vocabulary: the number of tokens, at least 258: the bytes, ``<s>`` and ``</s>``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(texts, trainer)
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=words, **marks)
