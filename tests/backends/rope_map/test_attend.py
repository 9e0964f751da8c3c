"""Attention with memory: what it computes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.encoder import KeysAndValues, Reader, Row
from memagent.backends.shared.attention.hooks import watched
from memagent.backends.shared.attention.injection import Attended, Placement
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.attending import FIRST, SECOND, attached, memory_of
from tests.backends.rope_map.tiny import FAMILIES, Tiny, logits, tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_consecutive_memory_is_as_if_the_whole_text_were_read_at_once(family: str) -> None:
    """Memory stands at 0..M-1, and the prompt's queries meet it as if they stood at M and further.

    What a token attends to depends on distances only, and the first part never sees the second one: so its
    keys and values are what the whole text would have given, in every layer.
    """
    local = tiny(family)
    whole = logits(local.model, [*FIRST, *SECOND])[len(FIRST) :]
    memory = memory_of(local, Row([], FIRST))
    assert memory.tokens == len(FIRST)
    torch.testing.assert_close(attached(local, memory, SECOND), whole, atol=1e-4, rtol=1e-4)
    assert (logits(local.model, SECOND) - whole).abs().max() > 0.05


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_hidden_states_of_every_layer_are_those_of_the_whole_text(family: str) -> None:
    local = tiny(family)
    memory = memory_of(local, Row([], FIRST))

    def states(ids: list[int]) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            found = local.model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        states: tuple[Tensor, ...] = found.hidden_states
        return states

    whole = states([*FIRST, *SECOND])
    with watched(local.model, memory):
        part = states(SECOND)
    for layer, (mine, all_) in enumerate(zip(part, whole, strict=True)):
        torch.testing.assert_close(mine, all_[:, len(FIRST) :], atol=1e-4, rtol=1e-4, msg=f"layer {layer}")


def test_parity_holds_for_several_pieces_each_read_after_the_ones_before() -> None:
    local = tiny()
    rows = [Row([], FIRST[:9]), Row(FIRST[:9], FIRST[9:10]), Row(FIRST[:10], FIRST[10:])]
    whole = logits(local.model, [*FIRST, *SECOND])[len(FIRST) :]
    for options in ({}, {"priors": [0.0, 0.0, 0.0]}, {"top_k": len(FIRST)}):
        memory = memory_of(local, *rows, **options)
        torch.testing.assert_close(attached(local, memory, SECOND), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("start", [1, 500])
def test_a_prompt_that_is_numbered_from_further_on_stands_that_much_further_away(start: int) -> None:
    local = tiny()
    there = torch.arange(start, start + len(SECOND))
    far = torch.cat([torch.arange(len(FIRST)), len(FIRST) + there])[None]
    # Without a mask transformers takes the gap for the border between two packed texts.
    whole = logits(local.model, [*FIRST, *SECOND], position_ids=far, attention_mask=torch.ones_like(far))[
        len(FIRST) :
    ]
    memory = memory_of(local, Row([], FIRST))
    found = attached(local, memory, SECOND, position_ids=there[None])
    torch.testing.assert_close(found, whole, atol=5e-4, rtol=5e-4)


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
    memory = memory_of(local, Row([], FIRST))
    torch.testing.assert_close(attached(local, memory, SECOND), whole, atol=1e-4, rtol=1e-4)


def turned(vectors: Tensor, position: int, theta: Tensor) -> Tensor:
    """R(position) by complex numbers, [head_dim] -> [head_dim]."""
    first, second = vectors.double().chunk(2)
    spun = torch.complex(first, second) * torch.exp(1j * position * theta.double())
    return torch.cat([spun.real, spun.imag])


@pytest.mark.parametrize("top_k", [None, 5])
def test_fixed_memory_is_a_plain_softmax_over_memory_and_prompt(top_k: int | None) -> None:
    local = Tiny("one", "one", make.model_of(make.config(num_hidden_layers=1)), make.tokenizer())
    offset, scaling = 300, make.HEAD_DIM**-0.5
    (stored,) = Reader(local).read([Row([], FIRST)])
    memory = memory_of(local, Row([], FIRST), placement="fixed", offset=offset, top_k=top_k)
    layer = local.model.model.layers[0]
    outputs: list[Tensor] = []
    hook = layer.self_attn.o_proj.register_forward_pre_hook(lambda _, given: outputs.append(given[0][0]))
    attached(local, memory, SECOND)
    hook.remove()

    theta = rotary.frequencies(local.model)
    with torch.inference_mode():
        hidden = layer.input_layernorm(local.model.model.embed_tokens(torch.tensor(SECOND)))
        query = layer.self_attn.q_proj(hidden).view(len(SECOND), make.HEADS, -1)
        key, value = (
            one(hidden).view(len(SECOND), make.KV_HEADS, -1)
            for one in (layer.self_attn.k_proj, layer.self_attn.v_proj)
        )
    expected = torch.zeros(len(SECOND), make.HEADS, make.HEAD_DIM, dtype=torch.float64)
    for token in range(len(SECOND)):
        for head in range(make.HEADS):
            shared = head * make.KV_HEADS // make.HEADS
            asking = query[token, head]
            pairs = [
                (
                    turned(asking, token, theta) @ turned(key[other, shared], other, theta),
                    value[other, shared],
                )
                for other in range(token + 1)
            ]
            far = turned(asking, offset, theta)
            remembered = [
                (far @ stored.keys[one, 0, shared].double(), stored.values[one, 0, shared])
                for one in range(len(FIRST))
            ]
            pairs += sorted(remembered, key=lambda pair: -float(pair[0]))[:top_k]
            weights = [math.exp(float(score) * scaling) for score, _ in pairs]
            expected[token, head] = sum(
                (weight * one.double() for weight, (_, one) in zip(weights, pairs, strict=True)),
                torch.zeros(make.HEAD_DIM, dtype=torch.float64),
            ) / sum(weights)
    torch.testing.assert_close(outputs[0].double(), expected.flatten(1), atol=1e-4, rtol=1e-4)


def test_keys_are_stored_as_they_would_stand_at_position_0() -> None:
    local = Tiny("one", "one", make.model_of(make.config(num_hidden_layers=1)), make.tokenizer())
    layer = local.model.model.layers[0]
    (stored,) = Reader(local).read([Row(SECOND, FIRST)])
    with torch.inference_mode():
        hidden = layer.input_layernorm(local.model.model.embed_tokens(torch.tensor(FIRST)))
        key = layer.self_attn.k_proj(hidden).view(len(FIRST), make.KV_HEADS, -1)
    torch.testing.assert_close(stored.keys[:, 0], key, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("placement", ["consecutive", "fixed"])
@pytest.mark.parametrize("top_k", [len(FIRST), 4096])
def test_the_best_tokens_of_at_least_all_are_all(placement: Placement, top_k: int) -> None:
    local = tiny()
    every = attached(local, memory_of(local, Row([], FIRST), placement=placement), SECOND)
    best = attached(local, memory_of(local, Row([], FIRST), placement=placement, top_k=top_k), SECOND)
    torch.testing.assert_close(best, every, atol=1e-5, rtol=1e-5)
    few = attached(local, memory_of(local, Row([], FIRST), placement=placement, top_k=2), SECOND)
    assert (few - every).abs().max() > 1e-3


def test_a_doubtful_piece_counts_less_but_never_for_nothing() -> None:
    local = tiny()
    rows = [Row([], FIRST[:18]), Row([], FIRST[18:])]

    def with_priors(*priors: float) -> Tensor:
        return attached(local, memory_of(local, *rows, priors=priors), SECOND)

    alike, doubtful, least = with_priors(0.0, 0.0), with_priors(0.0, -0.1), with_priors(0.0, math.log(0.2))
    assert (alike - doubtful).abs().max() > 1e-3
    assert (doubtful - least).abs().max() > 1e-3
    assert torch.equal(with_priors(0.0, -1000.0), least)


def test_memory_of_another_type_is_taken_to_the_models_type() -> None:
    local = tiny()
    reader = Reader(local)
    (read,) = reader.read([Row([], FIRST)])
    stored = KeysAndValues(read.keys.bfloat16(), read.values.bfloat16())
    memory = Attended(
        [stored], reader.theta, local.model.device, torch.float32, placement="consecutive", offset=0
    )
    found = attached(local, memory, SECOND)
    whole = logits(local.model, [*FIRST, *SECOND])[len(FIRST) :]
    assert found.dtype == torch.float32
    assert (found - whole).abs().max() < 0.1 < (logits(local.model, SECOND) - whole).abs().max()
