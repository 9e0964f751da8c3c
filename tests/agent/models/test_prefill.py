"""A reply reads what stands before its last message once: the same replies, fewer tokens, and nothing recalled is kept."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.local import LocalChatModel
from memagent.agent.models.prefill import PrefixReader, keeps_all_keys_and_values
from memagent.agent.models.prefix_cache import PREFIX_SCOPE, count_shared
from memagent.agent.models.runtime import transformers
from memagent.backends.errors import ModelError
from memagent.backends.neural.cache import CACHE_NAME
from memagent.backends.shared.attention.hooks import attention_hook
from memagent.backends.shared.attention.injection import InjectedKeysAndValues
from tests.agent.models.local_models import ANA, local_model, prompt, reply, tokens_read
from tests.backends.rope_map import tiny

pytestmark = pytest.mark.usefixtures("no_deprecated_names")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LocalChatModel:
    return local_model(tmp_path_factory.mktemp("tiny") / "model", tiny.model_of(tiny.config()))


@pytest.fixture
def local(loaded: LocalChatModel) -> LocalChatModel:
    """A model that has kept nothing yet."""
    loaded.prefix_reader = PrefixReader(loaded.model)
    return loaded


@contextmanager
def memory_attached(local: LocalChatModel, seed: int = 0) -> Iterator[None]:
    """Let the model attend to keys and values of five tokens, in this context."""
    hook = InjectedKeysAndValues(
        [tiny.random_chunk(5, seed)],
        local.model.model.rotary_emb.inv_freq,
        local.model.device,
        local.model.dtype,
        placement="consecutive",
        offset=0,
    )
    with attention_hook(local.model, hook):
        yield


def kept_states(local: LocalChatModel) -> list[Any]:
    """The keys and values that the model keeps, entry by entry."""
    return [entry.state for entry in local.prefix_reader.cache._entries]


# replies


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_replies_are_the_same_with_and_without_what_was_kept(family: str, tmp_path: Path) -> None:
    local = local_model(tmp_path / "model", tiny.model_of(tiny.config(family)))
    for turns in (0, 2, 4, 4, 8, 6):
        messages = prompt(turns)
        assert reply(local, messages) == reply(local, messages, None)


def test_replies_with_a_memory_attached_are_the_same_with_and_without_what_was_kept(
    local: LocalChatModel,
) -> None:
    for turns in (0, 2, 4, 8):
        messages = prompt(turns)
        with memory_attached(local, turns):
            assert reply(local, messages) == reply(local, messages, None)
            with_memory = reply(local, messages)
        assert with_memory != reply(local, messages)


def test_sampled_replies_are_the_same_with_and_without_what_was_kept(local: LocalChatModel) -> None:
    sampling = Sampling(max_tokens=12, temperature=1.0, seed=3)
    reply(local, prompt(4))
    assert reply(local, prompt(6), ANA, sampling) == reply(local, prompt(6), None, sampling)


# what is read


def test_a_turn_reads_its_new_tokens_only(local: LocalChatModel) -> None:
    short, long = prompt(10), prompt(12)
    once = Sampling(max_tokens=1)
    with tokens_read(local) as ids:
        reply(local, short, ANA, once)
        assert len(ids) == local.count(short)
        del ids[:]
        reply(local, short, ANA, once)
        assert len(ids) == local.count(short) - local._prefix_length(short, local._encode(short)) < 20
        del ids[:]
        reply(local, long, ANA, once)
    kept = local._prefix_length(short, local._encode(short))
    assert local._encode(long)[: kept - 2] == local._encode(short)[: kept - 2]
    assert ids == local._encode(long)[-len(ids) :]
    assert local.count(long) - kept <= len(ids) <= local.count(long) - kept + 5


def test_a_changed_beginning_is_read_again(local: LocalChatModel) -> None:
    messages, once = prompt(10), Sampling(max_tokens=1)
    changed = [messages[0], Message("user", "It rains."), *messages[2:]]
    reply(local, messages, ANA, once)
    with tokens_read(local) as ids:
        reply(local, changed, ANA, once)
    assert len(ids) > 0.8 * local.count(changed)
    assert reply(local, changed) == reply(local, changed, None)
    with tokens_read(local) as ids:
        reply(local, messages, ANA, once)
    assert len(ids) < 20


def test_without_a_scope_nothing_is_kept_or_used(local: LocalChatModel) -> None:
    for _ in range(2):
        with tokens_read(local) as ids:
            reply(local, prompt(4), None, Sampling(max_tokens=1))
        assert ids == local._encode(prompt(4))
    assert kept_states(local) == []


def test_another_user_or_a_later_forgetting_reads_everything(local: LocalChatModel) -> None:
    once = Sampling(max_tokens=1)
    reply(local, prompt(4), ANA, once)
    for scope in (replace(ANA, user="bob"), replace(ANA, forgetting=1)):
        with tokens_read(local) as ids:
            reply(local, prompt(4), scope, once)
        assert ids == local._encode(prompt(4))


# the last message


@pytest.mark.parametrize("message", ["", "\n\nyes", "<s>user\nhello", "Sentence 0"])
def test_any_last_message_leaves_the_prefix_as_it_is(local: LocalChatModel, message: str) -> None:
    usual, other = (local._encode(messages) for messages in (prompt(4), prompt(4, message)))
    length, other_length = (
        local._prefix_length(prompt(4), usual),
        local._prefix_length(prompt(4, message), other),
    )
    assert other_length < len(other)
    assert count_shared(usual[:length], other[:other_length]) >= length - 2
    assert reply(local, prompt(4, message)) == reply(local, prompt(4, message), None)


def test_the_first_message_of_all_has_no_history(local: LocalChatModel) -> None:
    messages = [Message("user", "hello")]
    assert reply(local, messages) == reply(local, messages, None)


def test_a_template_that_refuses_an_empty_message_reads_everything_at_once(local: LocalChatModel) -> None:
    template = local.tokenizer.chat_template
    refusal = "{% if not messages[-1].content %}{{ raise_exception('empty') }}{% endif %}"
    local.tokenizer.chat_template = refusal + template
    try:
        assert reply(local, prompt(4))
        assert kept_states(local) == []
    finally:
        local.tokenizer.chat_template = template


# what is kept


def test_what_is_kept_was_read_without_the_attached_memory(local: LocalChatModel) -> None:
    messages = prompt(6)
    with memory_attached(local):
        reply(local, messages)
    (state,) = kept_states(local)
    ids = torch.tensor([local._encode(messages)[: state[0][0].shape[2]]])
    with torch.inference_mode():
        cache = getattr(local.model(ids, use_cache=True), CACHE_NAME)
    for (keys, values), layer in zip(state, cache.layers, strict=True):
        assert torch.equal(keys, layer.keys)
        assert torch.equal(values, layer.values)


def test_generating_never_changes_what_is_kept(local: LocalChatModel) -> None:
    reply(local, prompt(6), ANA, Sampling(max_tokens=1))
    (state,) = kept_states(local)
    before = [(keys.clone(), values.clone()) for keys, values in state]
    with memory_attached(local):
        reply(local, prompt(6))
    token = PREFIX_SCOPE.set(ANA)
    closed = local.stream(prompt(6), Sampling(max_tokens=1000))
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    PREFIX_SCOPE.reset(token)
    (after,) = kept_states(local)
    for (keys, values), (keys_before, values_before) in zip(after, before, strict=True):
        assert torch.equal(keys, keys_before)
        assert torch.equal(values, values_before)


@pytest.mark.parametrize("part", ["model", "base_model"])
def test_a_failed_reply_leaves_nothing_wrong_behind(local: LocalChatModel, part: str) -> None:
    module = local.model if part == "model" else local.model.base_model

    def fail(*arguments: Any) -> None:
        raise RuntimeError("not enough memory")

    hook = module.register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match="not enough memory"):
        reply(local, prompt(6))
    hook.remove()
    assert len(kept_states(local)) == (part == "model")
    assert reply(local, prompt(6)) == reply(local, prompt(6), None)


def test_replies_in_parallel_are_those_of_each_alone(local: LocalChatModel) -> None:
    prompts = [prompt(turns, message) for turns in (2, 6) for message in ("Who barks?", "Where?", "Why?")]
    alone = [reply(local, messages, None) for messages in prompts]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(2):
            assert list(threads.map(lambda messages: reply(local, messages), prompts)) == alone


# models whose past cannot be kept


def config_of(name: str, **settings: Any) -> Any:
    make: Any = transformers.AutoConfig.for_model
    return make(name, vocab_size=1000, hidden_size=64, num_hidden_layers=2, **settings)


ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
OTHERS = {
    "sliding window": lambda: config_of("mistral", sliding_window=8, **ATTENTION),
    "linear attention": lambda: config_of("mamba", state_size=4, expand=1, time_step_rank=4),
    "frequencies": lambda: config_of("llama", rope_parameters=DYNAMIC, **ATTENTION),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_that_cannot_go_on_after_a_prefix_reads_everything_at_once(kind: str, tmp_path: Path) -> None:
    model = tiny.model_of(OTHERS[kind]())
    assert not keeps_all_keys_and_values(model)
    local = local_model(tmp_path / "model", model)
    replies = [reply(local, prompt(4)) for _ in range(2)]
    ids = torch.tensor([local._encode(prompt(4))])
    with torch.inference_mode():
        for _ in range(12):
            best = local.model(ids, use_cache=False).logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, best], 1)
    assert replies == [local.tokenizer.decode(ids[0, -12:], skip_special_tokens=True)] * 2
    assert kept_states(local) == []


def test_a_model_with_a_cache_of_its_own_is_left_to_it() -> None:
    model = tiny.model_of(tiny.config())
    assert keeps_all_keys_and_values(model)
    for name, value in (("cache_implementation", "static"), ("use_cache", False)):
        before = getattr(model.generation_config, name)
        setattr(model.generation_config, name, value)
        assert not keeps_all_keys_and_values(model)
        setattr(model.generation_config, name, before)
