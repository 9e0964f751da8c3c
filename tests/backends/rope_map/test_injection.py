"""Injected keys and values: the attention that a model computes with them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from memagent.backends.errors import SettingError
from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.encoder import AttentionEncoder, KeysAndValues
from memagent.backends.shared.attention.hooks import attention_hook
from memagent.backends.shared.attention.injection import InjectedKeysAndValues, Placement
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.injecting import FIRST, SECOND, logits_with, memory_of
from tests.backends.rope_map.tiny import FAMILIES, Tiny, logits, tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_consecutive_memory_is_as_if_the_whole_text_were_read_at_once(family: str) -> None:
    """Memory stands at 0..M-1, and the prompt's queries attend to it as if they stood at M and further.

    What a token attends to depends on distances only, and the first part never attends to the second: so its
    keys and values are those of the whole text, in every layer.
    """
    local = tiny(family)
    whole = logits(local.model, [*FIRST, *SECOND])[len(FIRST) :]
    memory = memory_of(local, TokenSpan([], FIRST))
    assert memory.num_tokens == len(FIRST)
    torch.testing.assert_close(logits_with(local, memory, SECOND), whole, atol=1e-4, rtol=1e-4)
    assert (logits(local.model, SECOND) - whole).abs().max() > 0.05


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_hidden_states_of_every_layer_are_those_of_the_whole_text(family: str) -> None:
    local = tiny(family)
    memory = memory_of(local, TokenSpan([], FIRST))

    def states(ids: list[int]) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            output = local.model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        states: tuple[Tensor, ...] = output.hidden_states
        return states

    whole = states([*FIRST, *SECOND])
    with attention_hook(local.model, memory):
        part = states(SECOND)
    for layer, (own, expected) in enumerate(zip(part, whole, strict=True)):
        torch.testing.assert_close(own, expected[:, len(FIRST) :], atol=1e-4, rtol=1e-4, msg=f"layer {layer}")


def test_parity_holds_for_several_chunks_each_read_after_those_before() -> None:
    local = tiny()
    rows = [TokenSpan([], FIRST[:9]), TokenSpan(FIRST[:9], FIRST[9:10]), TokenSpan(FIRST[:10], FIRST[10:])]
    whole = logits(local.model, [*FIRST, *SECOND])[len(FIRST) :]
    for options in ({}, {"log_weights": [0.0, 0.0, 0.0]}, {"top_k": len(FIRST)}):
        memory = memory_of(local, *rows, **options)
        torch.testing.assert_close(logits_with(local, memory, SECOND), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("start", [1, 500])
def test_a_prompt_that_is_numbered_from_further_on_stands_that_much_further_away(start: int) -> None:
    local = tiny()
    there = torch.arange(start, start + len(SECOND))
    far = torch.cat([torch.arange(len(FIRST)), len(FIRST) + there])[None]
    # Without a mask transformers takes the gap for the border between two packed texts.
    whole = logits(local.model, [*FIRST, *SECOND], position_ids=far, attention_mask=torch.ones_like(far))[
        len(FIRST) :
    ]
    memory = memory_of(local, TokenSpan([], FIRST))
    injected = logits_with(local, memory, SECOND, position_ids=there[None])
    torch.testing.assert_close(injected, whole, atol=5e-4, rtol=5e-4)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 512,
            "rope_theta": 10000.0,
        },
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
            "rope_theta": 10000.0,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_parity_holds_for_scaled_frequencies_that_stay_the_same(rope: dict[str, Any]) -> None:
    local = Tiny("scaled", "scaled", make.model_of(make.config(rope_parameters=rope)), make.tokenizer())
    whole = logits(local.model, [*FIRST, *SECOND])[len(FIRST) :]
    memory = memory_of(local, TokenSpan([], FIRST))
    torch.testing.assert_close(logits_with(local, memory, SECOND), whole, atol=1e-4, rtol=1e-4)


def rotated(vectors: Tensor, position: int, theta: Tensor) -> Tensor:
    """R(position) by complex numbers, [head_dim] -> [head_dim]."""
    first, second = vectors.double().chunk(2)
    product = torch.complex(first, second) * torch.exp(1j * position * theta.double())
    return torch.cat([product.real, product.imag])


@pytest.mark.parametrize("top_k", [None, 5])
def test_fixed_memory_is_a_plain_softmax_over_memory_and_prompt(top_k: int | None) -> None:
    local = Tiny("one layer", "one layer", make.model_of(make.config(num_hidden_layers=1)), make.tokenizer())
    offset, scaling = 300, make.HEAD_DIM**-0.5
    (stored,) = AttentionEncoder(local).encode([TokenSpan([], FIRST)])
    memory = memory_of(local, TokenSpan([], FIRST), placement="fixed", offset=offset, top_k=top_k)
    layer = local.model.model.layers[0]
    outputs: list[Tensor] = []
    hook = layer.self_attn.o_proj.register_forward_pre_hook(lambda _, given: outputs.append(given[0][0]))
    logits_with(local, memory, SECOND)
    hook.remove()

    theta = AttentionEncoder(local).theta
    with torch.inference_mode():
        hidden = layer.input_layernorm(local.model.model.embed_tokens(torch.tensor(SECOND)))
        query = layer.self_attn.q_proj(hidden).view(len(SECOND), make.HEADS, -1)
        key, value = (
            projection(hidden).view(len(SECOND), make.KV_HEADS, -1)
            for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj)
        )
    expected = torch.zeros(len(SECOND), make.HEADS, make.HEAD_DIM, dtype=torch.float64)
    for token in range(len(SECOND)):
        for head in range(make.HEADS):
            shared = head * make.KV_HEADS // make.HEADS
            own_query = query[token, head]
            pairs = [
                (
                    rotated(own_query, token, theta) @ rotated(key[other, shared], other, theta),
                    value[other, shared],
                )
                for other in range(token + 1)
            ]
            far = rotated(own_query, offset, theta)
            memory_pairs = [
                (far @ stored.keys[place, 0, shared].double(), stored.values[place, 0, shared])
                for place in range(len(FIRST))
            ]
            pairs += sorted(memory_pairs, key=lambda pair: -float(pair[0]))[:top_k]
            weights = [math.exp(float(score) * scaling) for score, _ in pairs]
            expected[token, head] = sum(
                (weight * vector.double() for weight, (_, vector) in zip(weights, pairs, strict=True)),
                torch.zeros(make.HEAD_DIM, dtype=torch.float64),
            ) / sum(weights)
    torch.testing.assert_close(outputs[0].double(), expected.flatten(1), atol=1e-4, rtol=1e-4)


def test_keys_are_stored_as_they_would_be_at_position_0() -> None:
    local = Tiny("one layer", "one layer", make.model_of(make.config(num_hidden_layers=1)), make.tokenizer())
    layer = local.model.model.layers[0]
    (stored,) = AttentionEncoder(local).encode([TokenSpan(SECOND, FIRST)])
    with torch.inference_mode():
        hidden = layer.input_layernorm(local.model.model.embed_tokens(torch.tensor(FIRST)))
        key = layer.self_attn.k_proj(hidden).view(len(FIRST), make.KV_HEADS, -1)
    torch.testing.assert_close(stored.keys[:, 0], key, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("placement", ["consecutive", "fixed"])
@pytest.mark.parametrize("top_k", [len(FIRST), 4096])
def test_a_top_k_of_all_tokens_or_more_is_all_of_them(placement: Placement, top_k: int) -> None:
    local = tiny()
    every = logits_with(local, memory_of(local, TokenSpan([], FIRST), placement=placement), SECOND)
    best = logits_with(
        local, memory_of(local, TokenSpan([], FIRST), placement=placement, top_k=top_k), SECOND
    )
    torch.testing.assert_close(best, every, atol=1e-5, rtol=1e-5)
    few = logits_with(local, memory_of(local, TokenSpan([], FIRST), placement=placement, top_k=2), SECOND)
    assert (few - every).abs().max() > 1e-3


def test_a_log_weight_counts_a_chunk_for_less() -> None:
    local = tiny()
    spans = [TokenSpan([], FIRST[:18]), TokenSpan([], FIRST[18:])]

    def with_weights(*log_weights: float) -> Tensor:
        return logits_with(local, memory_of(local, *spans, log_weights=log_weights), SECOND)

    equal, less, none = with_weights(0.0, 0.0), with_weights(0.0, -0.4), with_weights(0.0, -math.inf)
    assert (equal - less).abs().max() > 1e-3
    assert (less - none).abs().max() > 1e-3
    torch.testing.assert_close(equal, logits_with(local, memory_of(local, *spans), SECOND))


def test_a_chunk_of_weight_zero_is_as_absent() -> None:
    local = tiny()
    spans = [TokenSpan([], FIRST[:18]), TokenSpan([], FIRST[18:])]
    hidden = memory_of(local, *spans, placement="fixed", log_weights=[0.0, -math.inf])
    absent = memory_of(local, spans[0], placement="fixed")
    torch.testing.assert_close(logits_with(local, hidden, SECOND), logits_with(local, absent, SECOND))


def test_memory_of_another_type_is_converted_to_the_models_type() -> None:
    local = tiny()
    encoder = AttentionEncoder(local)
    (encoded,) = encoder.encode([TokenSpan([], FIRST)])
    stored = KeysAndValues(encoded.keys.bfloat16(), encoded.values.bfloat16())
    memory = InjectedKeysAndValues(
        [stored], encoder.theta, local.model.device, torch.float32, placement="consecutive", offset=0
    )
    injected = logits_with(local, memory, SECOND)
    whole = logits(local.model, [*FIRST, *SECOND])[len(FIRST) :]
    assert injected.dtype == torch.float32
    assert (injected - whole).abs().max() < 0.1 < (logits(local.model, SECOND) - whole).abs().max()


def test_two_memories_in_one_context_are_one_list_of_keys_and_values() -> None:
    local, cut = tiny(), 7
    whole = logits(local.model, [*FIRST, *SECOND])[len(FIRST) :]
    older = memory_of(local, TokenSpan([], FIRST[:cut]))
    newer = memory_of(local, TokenSpan(FIRST[:cut], FIRST[cut:]))
    alone = logits_with(local, older, SECOND)
    with attention_hook(local.model, older):
        torch.testing.assert_close(logits_with(local, newer, SECOND), whole, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits(local.model, SECOND), alone)
    assert (alone - whole).abs().max() > 0.01


def test_joined_memories_keep_the_weights_of_their_chunks() -> None:
    local = tiny()
    spans = [TokenSpan([], FIRST[:5]), TokenSpan([], FIRST[5:])]
    weighted = memory_of(local, *spans, log_weights=[-1.0, 0.0])
    with attention_hook(local.model, memory_of(local, spans[0], log_weights=[-1.0])):
        joined = logits_with(local, memory_of(local, spans[1], log_weights=[0.0]), SECOND)
    torch.testing.assert_close(joined, logits_with(local, weighted, SECOND), atol=1e-4, rtol=1e-4)


def test_a_memory_at_a_fixed_place_is_not_joined() -> None:
    local = tiny()
    fixed = memory_of(local, TokenSpan([], FIRST), placement="fixed", offset=64)
    with (
        attention_hook(local.model, fixed),
        pytest.raises(SettingError, match="consecutive placement"),
        attention_hook(local.model, memory_of(local, TokenSpan([], FIRST))),
    ):
        pass
    assert local.model.config._attn_implementation == "sdpa"
