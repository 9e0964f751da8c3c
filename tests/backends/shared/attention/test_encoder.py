"""Reading with a model: keys, values and queries as they would stand at position 0."""

from __future__ import annotations

import pytest
import torch

from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.encoder import Reader, Row
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.tiny import FAMILIES, logits, tiny, tokens

ROWS = [
    Row(tokens(5, seed=1), tokens(9, seed=2)),
    Row([], tokens(1, seed=3)),
    Row(tokens(30, seed=4), tokens(40, seed=5)),
    Row([], tokens(128, seed=6)),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_read_among_others_is_bit_for_bit_what_it_is_alone(family: str) -> None:
    reader = Reader(tiny(family))
    together = list(reader.read(ROWS))
    for row, found in zip(ROWS, together, strict=True):
        (alone,) = reader.read([row])
        assert found.keys.shape == (len(row.ids), make.LAYERS, make.KV_HEADS, make.HEAD_DIM)
        assert torch.equal(found.keys, alone.keys)
        assert torch.equal(found.values, alone.values)


def test_many_rows_are_read_in_order() -> None:
    reader = Reader(tiny())
    rows = [Row(tokens(100, seed=seed), tokens(1 + seed, seed=seed + 50)) for seed in range(25)]
    found = list(reader.read(rows))
    assert [len(one.keys) for one in found] == [len(row.ids) for row in rows]
    (alone,) = reader.read([rows[-1]])
    assert torch.equal(found[-1].keys, alone.keys)
    assert list(reader.read([])) == []


def test_what_stands_before_is_seen_and_not_kept() -> None:
    reader = Reader(tiny())
    after, bare, whole = (
        next(reader.read([row]))
        for row in (ROWS[0], Row([], ROWS[0].ids), Row([], [*ROWS[0].before, *ROWS[0].ids]))
    )
    assert len(after.keys) == len(bare.keys) == len(ROWS[0].ids)
    torch.testing.assert_close(after.keys, whole.keys[len(ROWS[0].before) :], atol=1e-4, rtol=1e-4)
    # The first layer has not looked back yet: there nothing depends on what stands before, nor on the position.
    torch.testing.assert_close(after.keys[:, 0], bare.keys[:, 0], atol=1e-4, rtol=1e-4)
    assert (after.keys[:, 1] - bare.keys[:, 1]).abs().max() > 1e-2


def test_layers_are_read_up_to_a_depth() -> None:
    reader = Reader(tiny())
    for row, some, every in zip(ROWS, reader.read(ROWS, depth=2), reader.read(ROWS), strict=True):
        assert some.keys.shape == (len(row.ids), 2, make.KV_HEADS, make.HEAD_DIM)
        assert torch.equal(some.keys, every.keys[:, :2])
        assert torch.equal(some.values, every.values[:, :2])


def test_values_are_given_up_to_a_depth_and_layers_above_it_are_not_run() -> None:
    local = tiny()
    reader, ran = Reader(local), []
    hooks = [
        layer.input_layernorm.register_forward_pre_hook(lambda *_, place=place: ran.append(place))
        for place, layer in enumerate(local.model.model.layers)
    ]
    found = list(reader.ask(ROWS[:2], [1], 2))
    for hook in hooks:
        hook.remove()
    assert set(ran) == {0, 1}
    for row, one, read in zip(ROWS, found, reader.read(ROWS[:2]), strict=False):
        assert one.queries.shape == (1, make.HEADS, len(row.ids), make.HEAD_DIM)
        assert one.values.shape == (len(row.ids), 2, make.KV_HEADS, make.HEAD_DIM)
        assert torch.equal(one.values, read.values[:, :2])


def test_the_layers_asked_for_are_given_and_no_others() -> None:
    reader = Reader(tiny())
    (every,), (some,) = reader.ask([ROWS[0]], range(3), 3), reader.ask([ROWS[0]], [0, 2], 3)
    torch.testing.assert_close(some.queries, every.queries[[0, 2]])


def test_queries_and_keys_meet_as_the_model_lets_them() -> None:
    """Turned back to where they stood, their products are the model's own attention scores."""
    local = tiny()
    reader = Reader(local)
    row = Row([], tokens(12, seed=8))
    (stored,), (asked,) = reader.read([row]), reader.ask([row], range(3), 3)
    places = torch.arange(12)
    local.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            weights = local.model(torch.tensor([row.ids]), output_attentions=True).attentions
    finally:
        local.model.set_attn_implementation("sdpa")
    for layer in range(make.LAYERS):
        keys = rotary.rotate(stored.keys[:, layer].transpose(0, 1), places, reader.theta)
        queries = rotary.rotate(asked.queries[layer], places, reader.theta)
        scores = queries @ keys.repeat_interleave(reader.group, 0).transpose(1, 2) * make.HEAD_DIM**-0.5
        hidden = torch.ones(12, 12, dtype=torch.bool).triu(1)
        mine = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        torch.testing.assert_close(mine, weights[layer][0], atol=1e-4, rtol=1e-4)


def test_reading_leaves_the_model_as_it_was() -> None:
    local = tiny()
    before = logits(local.model, ROWS[0].ids)
    reader = Reader(local)
    next(reader.read(ROWS))  # given up half-way
    next(reader.ask(ROWS, [1], 2))
    assert torch.equal(logits(local.model, ROWS[0].ids), before)
    assert local.model.config._attn_implementation == "sdpa"


def test_turning_there_and_back_gives_the_same_vector() -> None:
    theta = rotary.frequencies(tiny().model)
    vectors, places = torch.randn(2, 7, make.HEAD_DIM), torch.arange(7) * 31
    there = rotary.rotate(vectors, places, theta)
    torch.testing.assert_close(there.norm(dim=-1), vectors.norm(dim=-1))
    torch.testing.assert_close(rotary.rotate(there, -places, theta), vectors, atol=1e-4, rtol=1e-4)
    assert torch.equal(rotary.rotate(vectors, torch.tensor(0), theta), vectors)
