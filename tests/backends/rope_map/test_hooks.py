"""Attention hooks: in which contexts they run, and that they leave the model unchanged."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.encoder import AttentionEncoder
from memagent.backends.shared.attention.hooks import AttentionCall, attention_hook
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.injecting import FIRST, SECOND, logits_with, memory_of
from tests.backends.rope_map.tiny import FAMILIES, Tiny, logits, tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_bit_identical_before_and_after(family: str) -> None:
    local = tiny(family)
    before = logits(local.model, SECOND)
    memory = memory_of(local, TokenSpan([], FIRST))
    inside = logits_with(local, memory, SECOND)
    assert not torch.equal(inside, before)
    assert torch.equal(logits(local.model, SECOND), before)


def test_a_model_is_bit_identical_after_an_exception() -> None:
    local = tiny()
    before = logits(local.model, SECOND)

    def broken(layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        raise ArithmeticError(f"in layer {layer}")

    with pytest.raises(ArithmeticError, match="in layer 0"), attention_hook(local.model, broken):
        logits(local.model, SECOND)
    assert torch.equal(logits(local.model, SECOND), before)
    with attention_hook(local.model, broken):  # a hook can be opened again
        pass


def test_a_hook_that_returns_none_changes_nothing() -> None:
    local = tiny()
    layers: list[int] = []

    def look(layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> None:
        layers.append(layer)
        assert query.shape == (1, make.HEADS, len(SECOND), make.HEAD_DIM)
        assert key.shape == value.shape == (1, make.KV_HEADS, len(SECOND), make.HEAD_DIM)
        assert call.positions.tolist() == [list(range(len(SECOND)))]
        assert call.scaling == pytest.approx(make.HEAD_DIM**-0.5)

    with attention_hook(local.model, look):
        inside = logits(local.model, SECOND)
    assert layers == [0, 1, 2]
    assert torch.equal(inside, logits(local.model, SECOND))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_name_of_the_attention_is_restored(implementation: str) -> None:
    local = Tiny("own", "own", make.model_of(make.config()), make.tokenizer())
    local.model.set_attn_implementation(implementation)
    memory = memory_of(local, TokenSpan([], FIRST))
    assert local.model.config._attn_implementation == implementation
    before = logits(local.model, SECOND)
    with attention_hook(local.model, memory):
        assert local.model.config._attn_implementation != implementation
    assert local.model.config._attn_implementation == implementation
    with pytest.raises(KeyError), attention_hook(local.model, memory):
        raise KeyError
    assert local.model.config._attn_implementation == implementation
    assert torch.equal(logits(local.model, SECOND), before)


def test_of_hooks_that_cannot_join_the_last_one_runs_and_the_first_one_runs_again_after_it() -> None:
    local = tiny()
    memory, other = memory_of(local, TokenSpan([], FIRST)), memory_of(local, TokenSpan([], SECOND))
    alone = logits_with(local, memory, SECOND), logits_with(local, other, SECOND)
    with attention_hook(local.model, memory):
        assert torch.equal(logits(local.model, SECOND), alone[0])
        with attention_hook(local.model, lambda *arguments: other(*arguments)):
            assert torch.equal(logits(local.model, SECOND), alone[1])
        assert torch.equal(logits(local.model, SECOND), alone[0])
    assert local.model.config._attn_implementation == "sdpa"


def test_a_model_can_be_read_with_while_a_memory_is_attached() -> None:
    local = tiny()
    memory = memory_of(local, TokenSpan([], FIRST))
    (before,) = AttentionEncoder(local).encode([TokenSpan([], SECOND)])
    alone = logits_with(local, memory, SECOND)
    with attention_hook(local.model, memory):
        (inside,) = AttentionEncoder(local).encode([TokenSpan([], SECOND)])
        assert torch.equal(logits(local.model, SECOND), alone)
    assert torch.equal(inside.keys, before.keys)
    assert torch.equal(inside.values, before.values)


def test_two_models_have_hooks_at_the_same_time() -> None:
    models = tiny("llama"), tiny("qwen3")
    memories = [memory_of(local, TokenSpan([], FIRST)) for local in models]
    alone = [logits_with(local, memory, SECOND) for local, memory in zip(models, memories, strict=True)]
    with attention_hook(models[0].model, memories[0]), attention_hook(models[1].model, memories[1]):
        assert torch.equal(logits(models[0].model, SECOND), alone[0])
        assert torch.equal(logits(models[1].model, SECOND), alone[1])


def in_a_thread(work: Callable[[], Tensor]) -> Tensor:
    results: list[Tensor] = []
    worker = threading.Thread(target=lambda: results.append(work()))
    worker.start()
    worker.join()
    return results[0]


def test_a_thread_in_the_same_context_generates_with_the_memory_and_other_threads_without() -> None:
    local = tiny()
    memory = memory_of(local, TokenSpan([], FIRST))
    without = logits(local.model, SECOND)
    with attention_hook(local.model, memory):
        here = logits(local.model, SECOND)
        same, own = contextvars.copy_context(), contextvars.Context()
        assert torch.equal(in_a_thread(lambda: same.run(logits, local.model, SECOND)), here)
        assert torch.equal(in_a_thread(lambda: own.run(logits, local.model, SECOND)), without)
    assert not torch.equal(here, without)


def test_two_contexts_attach_memories_to_one_model_and_close_them_in_any_order() -> None:
    local = tiny()
    memories = memory_of(local, TokenSpan([], FIRST)), memory_of(local, TokenSpan([], SECOND))
    alone = [logits_with(local, memory, SECOND) for memory in memories]
    contexts = [contextvars.copy_context() for _ in memories]
    opened = [attention_hook(local.model, memory) for memory in memories]
    for context, hook in zip(contexts, opened, strict=True):
        context.run(hook.__enter__)
    assert torch.equal(contexts[0].run(logits, local.model, SECOND), alone[0])
    contexts[0].run(opened[0].__exit__, None, None, None)
    assert torch.equal(contexts[1].run(logits, local.model, SECOND), alone[1])
    contexts[1].run(opened[1].__exit__, None, None, None)
    assert local.model.config._attn_implementation == "sdpa"
