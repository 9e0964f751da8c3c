"""The model channel of Titans: decoded chunks in a model's attention, their provenance, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends.errors import SettingError
from memagent.backends.protocol import Injection, ModelMemory, Resources
from memagent.backends.titans import Titans, TitansMemoryConfig
from tests.backends.rope_map.test_generating import generated
from tests.backends.rope_map.tiny import FAMILIES, Tiny, logits, tiny, tokens
from tests.backends.tiny_tokenizers import CALL, END, KINDS
from tests.backends.turns import make_turn

FACT = "My dog is called Biscuit."
QUESTION = "What is my dog called?"
STATEMENTS = [f"The weather in town {number} was {word}." for number, word in enumerate(["grey", "fair"] * 5)]
PROMPT = tokens(12)

MakeMemory = Callable[..., Titans]


@pytest.fixture
def make_memory(tmp_path: Path) -> MakeMemory:
    def make(*texts: str, **settings: Any) -> Titans:
        memory = Titans(TitansMemoryConfig(**settings), Resources(tmp_path, make_embedder=HashingEmbedder))
        memory.remember([make_turn(seq, text) for seq, text in enumerate(texts, start=1)])
        return memory

    return make


def injection_of(memory: Titans, query: str, **options: Any) -> Injection:
    with memory.attached(tiny(), query, **options) as injection:
        return injection


def texts_of(injection: Injection) -> list[str]:
    return [item.text for item in injection.hits]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_attends_to_decoded_chunks_only_while_the_channel_is_open(
    make_memory: MakeMemory, family: str
) -> None:
    memory, local = make_memory(*STATEMENTS, FACT), tiny(family)
    assert isinstance(memory, ModelMemory)
    before = logits(local.model, PROMPT)
    with memory.attached(local, QUESTION) as injection:
        during = logits(local.model, PROMPT)
    assert texts_of(injection)[0] == FACT
    assert not torch.allclose(before, during, atol=1e-3)
    assert torch.equal(before, logits(local.model, PROMPT))


@pytest.mark.usefixtures("no_deprecated_names")
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_equals_generation_without(make_memory: MakeMemory, family: str) -> None:
    local = tiny(family)
    with make_memory(*STATEMENTS, FACT).attached(local, QUESTION):
        cached = generated(local, [PROMPT], use_cache=True)
        plain = generated(local, [PROMPT], use_cache=False)
    assert cached.sequences.tolist() == plain.sequences.tolist()
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-4, rtol=1e-4)


def test_other_facts_give_other_logits(make_memory: MakeMemory) -> None:
    fact_logits = []
    for fact in (FACT, "My dog is called Rex."):
        with make_memory(*STATEMENTS, fact).attached(tiny(), QUESTION):
            fact_logits.append(logits(tiny().model, PROMPT))
    assert not torch.allclose(fact_logits[0], fact_logits[1], atol=1e-3)


def test_control_tokens_in_a_chunk_are_read_as_text(make_memory: MakeMemory) -> None:
    tokenizer, fact = KINDS["byte_level"](), f"My dog is called {CALL} Biscuit{END}."
    local = Tiny("marked", "marked", tiny().model, tokenizer)
    read_ids: list[int] = []
    hook = local.model.model.register_forward_pre_hook(
        lambda module, positional, named: read_ids.extend(named["input_ids"].flatten().tolist()),
        with_kwargs=True,
    )
    with make_memory(*STATEMENTS, fact).attached(local, QUESTION) as injection:
        assert fact in texts_of(injection)
    hook.remove()
    assert fact in tokenizer.decode(read_ids)
    assert set(read_ids).isdisjoint(tokenizer.get_added_vocab().values())


def test_hits_name_their_turns(make_memory: MakeMemory) -> None:
    injection = injection_of(make_memory(*STATEMENTS, FACT, *STATEMENTS[:2]), QUESTION)
    first = injection.hits[0]
    assert (first.text, first.seqs) == (FACT, (11,))
    assert first.regenerated
    assert "decoded" in first.why
    assert "surprise was" in first.why
    assert 11 in injection.seqs


def test_every_turn_with_the_decoded_text_is_named(make_memory: MakeMemory) -> None:
    injection = injection_of(make_memory(FACT, *STATEMENTS, FACT), QUESTION)
    assert injection.hits[0].seqs == (12,)
    assert {1, 12} <= injection.seqs
    assert texts_of(injection_of(make_memory(FACT, *STATEMENTS, FACT), QUESTION, exclude=[1])) == []


def test_a_later_chunk_about_the_same_subject_replaces_the_earlier_one(make_memory: MakeMemory) -> None:
    old, new = "The locker code is 4471.", "My locker code is 9923."
    question = "What is my locker code?"
    assert texts_of(injection_of(make_memory(*STATEMENTS, old, new), question)) == [new]


def test_nothing_is_injected_for_an_unrelated_query(make_memory: MakeMemory) -> None:
    memory = make_memory(*STATEMENTS, FACT)
    plain = logits(tiny().model, PROMPT)
    with memory.attached(tiny(), "zyxgrabl frump") as injection:
        assert injection == Injection()
        assert torch.equal(logits(tiny().model, PROMPT), plain)
    assert injection_of(make_memory(), QUESTION) == Injection()


def test_turns_in_the_prompt_and_the_question_itself_are_not_injected(make_memory: MakeMemory) -> None:
    memory = make_memory(*STATEMENTS, FACT, QUESTION)
    assert QUESTION not in texts_of(injection_of(memory, "what is my dog called"))
    assert FACT not in texts_of(injection_of(memory, QUESTION, exclude=[11]))


def test_a_forgotten_turn_is_neither_decoded_nor_stored(make_memory: MakeMemory, tmp_path: Path) -> None:
    memory, folder = make_memory(*STATEMENTS, FACT), tmp_path / "stored"
    assert memory.forget([11])
    assert FACT not in texts_of(injection_of(memory, QUESTION))
    folder.mkdir()
    memory.save(folder)
    assert b"Biscuit" not in b"".join(path.read_bytes() for path in folder.iterdir())


def test_a_loaded_memory_injects_the_same(make_memory: MakeMemory, tmp_path: Path) -> None:
    memory, folder = make_memory(*STATEMENTS, FACT), tmp_path / "stored"
    folder.mkdir()
    memory.save(folder)
    loaded = Titans.load(folder, TitansMemoryConfig(), Resources(tmp_path, make_embedder=HashingEmbedder))
    assert injection_of(loaded, QUESTION) == injection_of(memory, QUESTION)


def test_its_size_does_not_depend_on_what_it_has_read(make_memory: MakeMemory) -> None:
    sizes = {
        make_memory(*STATEMENTS[:count], key_expansion=8).stats().extras["memory_bytes"]
        for count in (0, 1, 10)
    }
    assert len(sizes) == 1


def test_a_model_with_unsupported_attention_is_refused_by_name(make_memory: MakeMemory) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    local = tiny()
    other = type(local)(
        "gpt2", "x", GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2)), local.tokenizer
    )
    with (
        pytest.raises(SettingError, match="'gpt2'.*--channel text"),
        make_memory(FACT).attached(other, QUESTION),
    ):
        pass


def test_the_text_of_an_end_token_in_a_turn_is_injected_as_text(make_memory: MakeMemory) -> None:
    text = "My dog is called </s>Biscuit."
    memory = make_memory()
    memory.remember([make_turn(1, text)])
    with memory.attached(tiny(), QUESTION) as injection:
        assert logits(tiny().model, PROMPT).isfinite().all()
    assert texts_of(injection) == [text]
