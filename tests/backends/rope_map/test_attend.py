"""Attention with memory: what it computes, and that nothing of it stays behind."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from memagent.backends.errors import SettingError
from memagent.backends.rope_map import rotary
from memagent.backends.rope_map.attend import Attended, Placement
from memagent.backends.rope_map.attention import AttentionCall, watched
from memagent.backends.rope_map.reader import KeysAndValues, Reader, Row
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.tiny import FAMILIES, Tiny, logits, tiny, tokens

FIRST, SECOND = tokens(37, seed=1), tokens(11, seed=2)


def memory_of(
    local: Tiny, *rows: Row, placement: Placement = "consecutive", offset: int = 4096, **options: Any
) -> Attended:
    reader = Reader(local)
    return Attended(
        list(reader.read(rows)),
        reader.theta,
        local.model.device,
        local.model.dtype,
        placement=placement,
        offset=offset,
        **options,
    )


def attached(local: Tiny, memory: Attended, ids: list[int], **options: Any) -> Tensor:
    with watched(local.model, memory):
        return logits(local.model, ids, **options)


# nothing stays behind


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_bit_identical_before_and_after(family: str) -> None:
    local = tiny(family)
    before = logits(local.model, SECOND)
    memory = memory_of(local, Row([], FIRST))
    inside = attached(local, memory, SECOND)
    assert not torch.equal(inside, before)
    assert torch.equal(logits(local.model, SECOND), before)


def test_a_model_is_bit_identical_after_an_exception() -> None:
    local = tiny()
    before = logits(local.model, SECOND)

    def broken(layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        raise ArithmeticError(f"in layer {layer}")

    with pytest.raises(ArithmeticError, match="in layer 0"), watched(local.model, broken):
        logits(local.model, SECOND)
    assert torch.equal(logits(local.model, SECOND), before)
    with watched(local.model, broken):  # the model is free again
        pass


def test_a_watcher_that_answers_nothing_changes_nothing() -> None:
    local = tiny()
    seen: list[int] = []

    def look(layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> None:
        seen.append(layer)
        assert query.shape == (1, make.HEADS, len(SECOND), make.HEAD_DIM)
        assert key.shape == value.shape == (1, make.KV_HEADS, len(SECOND), make.HEAD_DIM)
        assert call.positions.tolist() == [list(range(len(SECOND)))]
        assert call.scaling == pytest.approx(make.HEAD_DIM**-0.5)

    with watched(local.model, look):
        inside = logits(local.model, SECOND)
    assert seen == [0, 1, 2]
    assert torch.equal(inside, logits(local.model, SECOND))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_name_of_the_attention_is_restored(implementation: str) -> None:
    local = Tiny("own", "own", make.model_of(make.config()), make.tokenizer())
    local.model.set_attn_implementation(implementation)
    memory = memory_of(local, Row([], FIRST))
    assert local.model.config._attn_implementation == implementation
    before = logits(local.model, SECOND)
    with watched(local.model, memory):
        assert local.model.config._attn_implementation != implementation
    assert local.model.config._attn_implementation == implementation
    with pytest.raises(KeyError), watched(local.model, memory):
        raise KeyError
    assert local.model.config._attn_implementation == implementation
    assert torch.equal(logits(local.model, SECOND), before)


def test_the_watcher_opened_last_sees_and_the_first_one_sees_again_after_it() -> None:
    local = tiny()
    memory, other = memory_of(local, Row([], FIRST)), memory_of(local, Row([], SECOND))
    alone = attached(local, memory, SECOND), attached(local, other, SECOND)
    with watched(local.model, memory):
        assert torch.equal(logits(local.model, SECOND), alone[0])
        with watched(local.model, other):
            assert torch.equal(logits(local.model, SECOND), alone[1])
        assert torch.equal(logits(local.model, SECOND), alone[0])
    assert local.model.config._attn_implementation == "sdpa"


def test_a_model_can_be_read_with_while_a_memory_is_attached() -> None:
    local = tiny()
    memory = memory_of(local, Row([], FIRST))
    (before,) = Reader(local).read([Row([], SECOND)])
    with watched(local.model, memory):
        (inside,) = Reader(local).read([Row([], SECOND)])
        assert torch.equal(logits(local.model, SECOND), attached(local, memory, SECOND))
    assert torch.equal(inside.keys, before.keys)
    assert torch.equal(inside.values, before.values)


def test_two_models_are_watched_at_once() -> None:
    one, other = tiny("llama"), tiny("qwen3")
    for_one, for_other = memory_of(one, Row([], FIRST)), memory_of(other, Row([], FIRST))
    alone = attached(one, for_one, SECOND), attached(other, for_other, SECOND)
    with watched(one.model, for_one), watched(other.model, for_other):
        assert torch.equal(logits(one.model, SECOND), alone[0])
        assert torch.equal(logits(other.model, SECOND), alone[1])


# what it computes


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


# generation


def generated(local: Tiny, ids: list[list[int]], *, use_cache: bool, mask: Tensor | None = None) -> Any:
    given = torch.tensor(ids)
    with torch.inference_mode():
        return local.model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given) if mask is None else mask,
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=False,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )


@pytest.mark.parametrize("placement", ["consecutive", "fixed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_generating_with_a_cache_is_generating_without(family: str, placement: Placement) -> None:
    local = tiny(family)
    with watched(local.model, memory_of(local, Row([], FIRST), placement=placement)):
        cached = generated(local, [SECOND], use_cache=True)
        plain = generated(local, [SECOND], use_cache=False)
    assert cached.sequences.tolist() == plain.sequences.tolist()
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-4, rtol=1e-4)


def test_generating_goes_on_as_after_the_whole_text() -> None:
    local = tiny()
    with watched(local.model, memory_of(local, Row([], FIRST))):
        part = generated(local, [SECOND], use_cache=True)
    whole = generated(local, [[*FIRST, *SECOND]], use_cache=True)
    torch.testing.assert_close(torch.stack(part.logits), torch.stack(whole.logits), atol=1e-4, rtol=1e-4)
    assert part.sequences[0, len(SECOND) :].tolist() == whole.sequences[0, -6:].tolist()


@pytest.mark.parametrize("placement", ["consecutive", "fixed"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_prompts_padded_on_the_left_are_each_as_alone(placement: Placement, implementation: str) -> None:
    local = Tiny("own", "own", make.model_of(make.config()), make.tokenizer())
    local.model.set_attn_implementation(implementation)
    long, short = SECOND, tokens(6, seed=3)
    missing = len(long) - len(short)
    mask = torch.tensor([[1] * len(long), [0] * missing + [1] * len(short)])
    with watched(local.model, memory_of(local, Row([], FIRST), placement=placement)):
        both = torch.stack(
            generated(local, [long, [1] * missing + short], use_cache=True, mask=mask).logits, 1
        )
        alone = [torch.stack(generated(local, [one], use_cache=True).logits, 1)[0] for one in (long, short)]
    torch.testing.assert_close(both[0], alone[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[1], alone[1], atol=1e-4, rtol=1e-4)


def in_a_thread(work: Callable[[], Tensor]) -> Tensor:
    found: list[Tensor] = []
    worker = threading.Thread(target=lambda: found.append(work()))
    worker.start()
    worker.join()
    return found[0]


def test_a_thread_in_the_same_context_generates_with_the_memory_and_other_threads_without() -> None:
    local = tiny()
    memory = memory_of(local, Row([], FIRST))
    without = logits(local.model, SECOND)
    with watched(local.model, memory):
        here = logits(local.model, SECOND)
        same, own = contextvars.copy_context(), contextvars.Context()
        assert torch.equal(in_a_thread(lambda: same.run(logits, local.model, SECOND)), here)
        assert torch.equal(in_a_thread(lambda: own.run(logits, local.model, SECOND)), without)
    assert not torch.equal(here, without)


def test_two_contexts_attach_memories_to_one_model_and_close_them_in_any_order() -> None:
    local = tiny()
    memories = memory_of(local, Row([], FIRST)), memory_of(local, Row([], SECOND))
    alone = [attached(local, memory, SECOND) for memory in memories]
    contexts = [contextvars.copy_context() for _ in memories]
    opened = [watched(local.model, memory) for memory in memories]
    for context, one in zip(contexts, opened, strict=True):
        context.run(one.__enter__)
    assert torch.equal(contexts[0].run(logits, local.model, SECOND), alone[0])
    contexts[0].run(opened[0].__exit__, None, None, None)
    assert torch.equal(contexts[1].run(logits, local.model, SECOND), alone[1])
    contexts[1].run(opened[1].__exit__, None, None, None)
    assert local.model.config._attn_implementation == "sdpa"


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


# which models


def test_another_family_is_refused_by_name() -> None:
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
        with pytest.raises(SettingError, match=f"llama, mistral.*'{settings.model_type}'"):
            Reader(local)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_frequencies_that_change_with_the_text_are_refused(rope_type: str) -> None:
    rope: dict[str, Any] = {"rope_type": rope_type, "factor": 2.0, "rope_theta": 10000.0}
    if rope_type == "longrope":
        ones = [1.0] * (make.HEAD_DIM // 2)
        rope |= {"short_factor": ones, "long_factor": ones, "original_max_position_embeddings": 512}
    local = Tiny("other", "other", make.model_of(make.config(rope_parameters=rope)), make.tokenizer())
    with pytest.raises(SettingError, match=rope_type):
        Reader(local)
