"""Encoding with a model: keys, values and queries as they would be at position 0."""

from __future__ import annotations

import pytest
import torch

from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.encoder import AttentionEncoder
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.tiny import FAMILIES, logits, tiny, tokens

SPANS = [
    TokenSpan(tokens(5, seed=1), tokens(9, seed=2)),
    TokenSpan([], tokens(1, seed=3)),
    TokenSpan(tokens(30, seed=4), tokens(40, seed=5)),
    TokenSpan([], tokens(128, seed=6)),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_span_is_encoded_the_same_bit_for_bit_among_others_and_alone(family: str) -> None:
    encoder = AttentionEncoder(tiny(family))
    together = list(encoder.encode(SPANS))
    for span, among_others in zip(SPANS, together, strict=True):
        (single,) = encoder.encode([span])
        assert among_others.keys.shape == (len(span.ids), make.LAYERS, make.KV_HEADS, make.HEAD_DIM)
        assert torch.equal(among_others.keys, single.keys)
        assert torch.equal(among_others.values, single.values)


def test_many_spans_are_encoded_in_order() -> None:
    encoder = AttentionEncoder(tiny())
    spans = [TokenSpan(tokens(100, seed=seed), tokens(1 + seed, seed=seed + 50)) for seed in range(25)]
    encoded = list(encoder.encode(spans))
    assert [len(tensors.keys) for tensors in encoded] == [len(span.ids) for span in spans]
    (single,) = encoder.encode([spans[-1]])
    assert torch.equal(encoded[-1].keys, single.keys)
    assert list(encoder.encode([])) == []


def test_the_prefix_is_read_and_not_kept() -> None:
    encoder = AttentionEncoder(tiny())
    after, bare, whole = (
        next(encoder.encode([span]))
        for span in (
            SPANS[0],
            TokenSpan([], SPANS[0].ids),
            TokenSpan([], [*SPANS[0].prefix_ids, *SPANS[0].ids]),
        )
    )
    assert len(after.keys) == len(bare.keys) == len(SPANS[0].ids)
    torch.testing.assert_close(after.keys, whole.keys[len(SPANS[0].prefix_ids) :], atol=1e-4, rtol=1e-4)
    # In the first layer nothing depends on the prefix yet, nor on the position.
    torch.testing.assert_close(after.keys[:, 0], bare.keys[:, 0], atol=1e-4, rtol=1e-4)
    assert (after.keys[:, 1] - bare.keys[:, 1]).abs().max() > 1e-2


def test_as_many_layers_are_encoded_as_asked_for() -> None:
    encoder = AttentionEncoder(tiny())
    for span, some, every in zip(
        SPANS, encoder.encode(SPANS, num_layers=2), encoder.encode(SPANS), strict=True
    ):
        assert some.keys.shape == (len(span.ids), 2, make.KV_HEADS, make.HEAD_DIM)
        assert torch.equal(some.keys, every.keys[:, :2])
        assert torch.equal(some.values, every.values[:, :2])


def test_values_of_the_first_layers_are_given_and_later_layers_do_not_run() -> None:
    local = tiny()
    encoder, ran = AttentionEncoder(local), []
    hooks = [
        layer.input_layernorm.register_forward_pre_hook(lambda *_, place=place: ran.append(place))
        for place, layer in enumerate(local.model.model.layers)
    ]
    encoded = list(encoder.encode_queries(SPANS[:2], [1], 2))
    for hook in hooks:
        hook.remove()
    assert set(ran) == {0, 1}
    for span, question, chunk in zip(SPANS, encoded, encoder.encode(SPANS[:2]), strict=False):
        assert question.queries.shape == (1, make.HEADS, len(span.ids), make.HEAD_DIM)
        assert question.values.shape == (len(span.ids), 2, make.KV_HEADS, make.HEAD_DIM)
        assert torch.equal(question.values, chunk.values[:, :2])


def test_queries_of_the_wanted_layers_are_given_and_no_others() -> None:
    encoder = AttentionEncoder(tiny())
    (every,), (some,) = (
        encoder.encode_queries([SPANS[0]], range(3), 3),
        encoder.encode_queries([SPANS[0]], [0, 2], 3),
    )
    torch.testing.assert_close(some.queries, every.queries[[0, 2]])


def test_queries_and_keys_give_the_models_own_attention() -> None:
    """Rotated to their positions again, their products are the model's own attention scores."""
    local = tiny()
    encoder = AttentionEncoder(local)
    span = TokenSpan([], tokens(12, seed=8))
    (stored,), (encoded,) = encoder.encode([span]), encoder.encode_queries([span], range(3), 3)
    places = torch.arange(12)
    local.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            weights = local.model(torch.tensor([span.ids]), output_attentions=True).attentions
    finally:
        local.model.set_attn_implementation("sdpa")
    for layer in range(make.LAYERS):
        keys = rotary.rotate(stored.keys[:, layer].transpose(0, 1), places, encoder.theta)
        queries = rotary.rotate(encoded.queries[layer], places, encoder.theta)
        scores = queries @ keys.repeat_interleave(encoder.group_size, 0).transpose(1, 2) * make.HEAD_DIM**-0.5
        hidden = torch.ones(12, 12, dtype=torch.bool).triu(1)
        attention = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        torch.testing.assert_close(attention, weights[layer][0], atol=1e-4, rtol=1e-4)


def test_encoding_leaves_the_model_unchanged() -> None:
    local = tiny()
    before = logits(local.model, SPANS[0].ids)
    encoder = AttentionEncoder(local)
    next(encoder.encode(SPANS))  # abandoned half-way
    next(encoder.encode_queries(SPANS, [1], 2))
    assert torch.equal(logits(local.model, SPANS[0].ids), before)
    assert local.model.config._attn_implementation == "sdpa"


def test_a_rotation_and_its_inverse_give_the_same_vector() -> None:
    theta = AttentionEncoder(tiny()).theta
    vectors, places = torch.randn(2, 7, make.HEAD_DIM), torch.arange(7) * 31
    there = rotary.rotate(vectors, places, theta)
    torch.testing.assert_close(there.norm(dim=-1), vectors.norm(dim=-1))
    torch.testing.assert_close(rotary.rotate(there, -places, theta), vectors, atol=1e-4, rtol=1e-4)
    assert torch.equal(rotary.rotate(vectors, torch.tensor(0), theta), vectors)
