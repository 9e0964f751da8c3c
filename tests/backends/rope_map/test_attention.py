"""Watching a model's attention: who sees it, and that nothing of it stays behind."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from memagent.backends.shared.attention.encoder import Reader, Row
from memagent.backends.shared.attention.hooks import AttentionCall, watched
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.attending import FIRST, SECOND, attached, memory_of
from tests.backends.rope_map.tiny import FAMILIES, Tiny, logits, tiny


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
