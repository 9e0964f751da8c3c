"""What Titans recites stands in a model's attention, with its provenance, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends.errors import SettingError
from memagent.backends.protocol import Injection, ModelMemory, Resources
from memagent.backends.records import Turn
from memagent.backends.titans import Titans, TitansConfig
from tests.backends.rope_map.test_generating import generated
from tests.backends.rope_map.tiny import FAMILIES, Tiny, logits, said, tiny, tokens
from tests.backends.tiny_tokenizers import CALL, END, KINDS

FACT = "My dog is called Biscuit."
QUESTION = "What is my dog called?"
OTHERS = [f"The weather in town {place} was {word}." for place, word in enumerate(["grey", "fair"] * 5)]
PROMPT = tokens(12)

Make = Callable[..., Titans]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_(*texts: str, **settings: Any) -> Titans:
        backend = Titans(TitansConfig(**settings), Resources(tmp_path, make_embedder=HashingEmbedder))
        backend.remember([said(seq, text) for seq, text in enumerate(texts, start=1)])
        return backend

    return make_


def brought(backend: Titans, query: str, **options: Any) -> Injection:
    with backend.attached(tiny(), query, **options) as attachment:
        return attachment


def texts(attachment: Injection) -> list[str]:
    return [item.text for item in attachment.hits]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_attends_to_what_is_recited_and_is_itself_again_afterwards(make: Make, family: str) -> None:
    backend, local = make(*OTHERS, FACT), tiny(family)
    assert isinstance(backend, ModelMemory)
    before = logits(local.model, PROMPT)
    with backend.attached(local, QUESTION) as attachment:
        during = logits(local.model, PROMPT)
    assert texts(attachment)[0] == FACT
    assert not torch.allclose(before, during, atol=1e-3)
    assert torch.equal(before, logits(local.model, PROMPT))


@pytest.mark.usefixtures("no_deprecated_names")
@pytest.mark.parametrize("family", FAMILIES)
def test_generating_with_a_recital_and_a_cache_is_generating_without_a_cache(make: Make, family: str) -> None:
    local = tiny(family)
    with make(*OTHERS, FACT).attached(local, QUESTION):
        cached = generated(local, [PROMPT], use_cache=True)
        plain = generated(local, [PROMPT], use_cache=False)
    assert cached.sequences.tolist() == plain.sequences.tolist()
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-4, rtol=1e-4)


def test_what_was_said_differently_is_attended_differently(make: Make) -> None:
    seen = []
    for fact in (FACT, "My dog is called Rex."):
        with make(*OTHERS, fact).attached(tiny(), QUESTION):
            seen.append(logits(tiny().model, PROMPT))
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)


def test_markers_in_what_is_recited_are_read_as_letters(make: Make) -> None:
    tokenizer, fact = KINDS["byte_level"](), f"My dog is called {CALL} Biscuit{END}."
    local = Tiny("marked", "marked", tiny().model, tokenizer)
    read: list[int] = []
    hook = local.model.model.register_forward_pre_hook(
        lambda module, positional, named: read.extend(named["input_ids"].flatten().tolist()), with_kwargs=True
    )
    with make(*OTHERS, fact).attached(local, QUESTION) as attachment:
        assert fact in texts(attachment)
    hook.remove()
    assert fact in tokenizer.decode(read)
    assert set(read).isdisjoint(tokenizer.get_added_vocab().values())


def test_recollections_tell_where_they_are_from(make: Make) -> None:
    found = brought(make(*OTHERS, FACT, *OTHERS[:2]), QUESTION)
    first = found.hits[0]
    assert (first.text, first.seqs) == (FACT, (11,))
    assert first.regenerated
    assert "recited" in first.why
    assert "surprise was" in first.why
    assert 11 in found.seqs


def test_every_turn_that_said_it_is_named(make: Make) -> None:
    found = brought(make(FACT, *OTHERS, FACT), QUESTION)
    assert found.hits[0].seqs == (12,)
    assert {1, 12} <= found.seqs
    assert texts(brought(make(FACT, *OTHERS, FACT), QUESTION, exclude=[1])) == []


def test_of_two_about_the_same_the_later_holds_if_it_matches_better(make: Make) -> None:
    old, new = "The locker code is 4471.", "My locker code is 9923."
    question = "What is my locker code?"
    assert texts(brought(make(*OTHERS, old, new), question)) == [new]


def test_nothing_comes_to_mind_for_what_was_never_told(make: Make) -> None:
    backend = make(*OTHERS, FACT)
    with backend.attached(tiny(), "zyxgrabl frump") as attachment:
        assert attachment == Injection()
        assert torch.equal(logits(tiny().model, PROMPT), during_nothing())
    assert brought(make(), QUESTION) == Injection()


def during_nothing() -> torch.Tensor:
    return logits(tiny().model, PROMPT)


def test_what_stands_in_the_prompt_or_was_the_question_is_left_out(make: Make) -> None:
    backend = make(*OTHERS, FACT, QUESTION)
    assert QUESTION not in texts(brought(backend, "what is my dog called"))
    assert FACT not in texts(brought(backend, QUESTION, exclude=[11]))


def test_what_was_forgotten_is_gone_from_weights_and_words(make: Make, tmp_path: Path) -> None:
    backend, without = make(*OTHERS, FACT), make(*OTHERS)
    assert backend.forget([11])
    assert FACT not in texts(brought(backend, QUESTION))
    folder = tmp_path / "stored"
    folder.mkdir()
    backend.save(folder)
    assert b"Biscuit" not in b"".join(path.read_bytes() for path in folder.iterdir())
    assert torch.equal(backend._recital.tensors()["weights"], without._recital.tensors()["weights"])


def test_it_recites_the_same_after_it_was_stored(make: Make, tmp_path: Path) -> None:
    backend, folder = make(*OTHERS, FACT), tmp_path / "stored"
    folder.mkdir()
    backend.save(folder)
    again = Titans.load(folder, TitansConfig(), Resources(tmp_path, make_embedder=HashingEmbedder))
    assert brought(again, QUESTION) == brought(backend, QUESTION)


def test_its_size_stays_whatever_it_has_read(make: Make) -> None:
    sizes = {make(*OTHERS[:count], copies=8).stats().extras["memory_bytes"] for count in (0, 1, 10)}
    assert len(sizes) == 1


def test_a_model_with_another_attention_is_refused_by_name(make: Make) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    local = tiny()
    other = type(local)(
        "gpt2", "x", GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2)), local.tokenizer
    )
    with pytest.raises(SettingError, match="'gpt2'.*--channel text"), make(FACT).attached(other, QUESTION):
        pass


def test_letters_of_control_tokens_are_read_as_letters(make: Make) -> None:
    told = "My dog is called </s>Biscuit."
    turn: Turn = said(1, told)
    backend = make()
    backend.remember([turn])
    with backend.attached(tiny(), QUESTION) as attachment:
        assert logits(tiny().model, PROMPT).isfinite().all()
    assert texts(attachment) == [told]
