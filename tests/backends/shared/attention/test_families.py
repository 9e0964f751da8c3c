"""Which models are refused, by name: other families, and frequencies that change with the length of the text."""

from __future__ import annotations

from typing import Any

import pytest

from memagent.backends.errors import SettingError
from memagent.backends.shared.attention.encoder import AttentionEncoder
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.tiny import Tiny


def test_another_family_is_refused_and_the_supported_ones_are_named() -> None:
    from transformers import GemmaConfig, GPT2Config

    small = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50)
    gemma = GemmaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    for settings in (small, gemma):
        local = Tiny("other", "other", make.model_of(settings), make.tokenizer())
        with pytest.raises(SettingError, match=f"llama, mistral, qwen2, qwen3.*'{settings.model_type}'"):
            AttentionEncoder(local)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_frequencies_that_change_with_the_text_are_refused(rope_type: str) -> None:
    rope: dict[str, Any] = {"rope_type": rope_type, "factor": 2.0, "rope_theta": 10000.0}
    if rope_type == "longrope":
        ones = [1.0] * (make.HEAD_DIM // 2)
        rope |= {"short_factor": ones, "long_factor": ones, "original_max_position_embeddings": 512}
    local = Tiny("other", "other", make.model_of(make.config(rope_parameters=rope)), make.tokenizer())
    with pytest.raises(SettingError, match=rope_type):
        AttentionEncoder(local)
