"""MeMo as transformers calls it: logits, caches under both names, `generate`, storage, wrong arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from memagent.backends.neural.cache import CACHE_NAME, CACHE_NAMES
from memagent.backends.neural.memo import MeMoCache, MeMoConfig, MeMoForCausalLM, StateError
from tests.backends.neural.memo.texts import random_texts, state

each_name = pytest.mark.parametrize("name", CACHE_NAMES)
each_composition = pytest.mark.parametrize("composition", ["bound", "computed", "retrieved"])
TEXTS = random_texts(20, 25, vocabulary=999)


def model_of(composition: str = "bound", **options: Any) -> Any:
    model: Any = MeMoForCausalLM(
        MeMoConfig(vocab_size=1000, hidden_size=512, composition=composition, **options)
    )
    return model.memorise(TEXTS).eval()


def ids_of(*texts: list[int]) -> Tensor:
    return torch.tensor(texts)


@each_composition
def test_generate_continues_what_was_memorised(composition: str) -> None:
    model = model_of(composition)
    generated = model.generate(ids_of(*(text[:6] for text in TEXTS)), max_new_tokens=19, do_sample=False)
    assert generated.tolist() == TEXTS


def test_logits_are_weights() -> None:
    model = model_of(logit_scale=10.0)
    logits = model(ids_of(TEXTS[0])).logits
    assert logits.shape == (1, 25, 1000)
    for place in range(24):
        assert int(logits[0, place].argmax()) == TEXTS[0][place + 1]
        assert float(logits[0, place].max()) == pytest.approx(20, abs=5)
    assert not logits[..., 999].any()  # a token that was never stored
    forgotten = model.forget(TEXTS[:1])(ids_of(TEXTS[0])).logits
    assert float(forgotten[0, range(24), TEXTS[0][1:]].max()) < 6


@each_name
@each_composition
def test_a_sequence_in_parts_has_the_logits_of_the_whole(composition: str, name: str) -> None:
    model, ids = model_of(composition), ids_of(TEXTS[0], TEXTS[1])
    whole = model(ids).logits
    cache, parts, start = MeMoCache(), [], 0
    for length in (1, 2, 17, 5):
        output = model(ids[:, start : start + length], **{name: cache})
        assert getattr(output, CACHE_NAME) is cache
        parts.append(output.logits)
        start += length
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-3)
    assert cache.get_seq_length() == 25


@each_name
def test_generation_continues_from_a_cache_under_either_name(name: str) -> None:
    model, cache = model_of(), MeMoCache()
    first = model.generate(ids_of(TEXTS[0][:6]), max_new_tokens=4, do_sample=False, **{name: cache})
    assert cache.get_seq_length() == 9
    copy = cache.copy()
    for each in (cache, copy):
        second = model.generate(first, max_new_tokens=15, do_sample=False, **{name: each})
        assert second[0].tolist() == TEXTS[0]


def test_generate_returns_the_cache() -> None:
    output = model_of().generate(
        ids_of(TEXTS[0][:6]), max_new_tokens=4, do_sample=False, return_dict_in_generate=True
    )
    assert isinstance(getattr(output, CACHE_NAME), MeMoCache)


def test_beam_search_finds_a_memorised_text() -> None:
    generated = model_of().generate(ids_of(TEXTS[3][:6]), max_new_tokens=19, do_sample=False, num_beams=3)
    assert generated[0].tolist() == TEXTS[3]


def test_padding_is_not_read() -> None:
    model = model_of()
    left = ids_of([0] * 5 + TEXTS[0][:8], TEXTS[1][:13])
    mask = torch.ones_like(left)
    mask[0, :5] = 0
    generated = model.generate(left, attention_mask=mask, max_new_tokens=10, do_sample=False)
    assert generated[0, 5:].tolist() == TEXTS[0][:18]
    assert generated[1].tolist() == TEXTS[1][:23]
    logits = model(left, attention_mask=mask).logits
    torch.testing.assert_close(logits[0, 5:], model(ids_of(TEXTS[0][:8])).logits[0], rtol=0, atol=1e-3)
    assert not logits[0, :5].any()
    with pytest.raises(ValueError, match=r"attention_mask is expected to be \[2, 13\]"):
        model(left, attention_mask=mask[:, :4])


def test_only_the_last_logits_are_computed_if_asked_for() -> None:
    model, ids = model_of(), ids_of(TEXTS[0], TEXTS[1])
    torch.testing.assert_close(
        model(ids, logits_to_keep=3).logits, model(ids).logits[:, -3:], rtol=0, atol=1e-3
    )


def test_the_loss_is_a_mean_or_a_share_of_all_labels() -> None:
    model, ids = model_of(), ids_of(TEXTS[0], TEXTS[1])
    labels = ids.clone()
    labels[0, :5] = -100
    output = model(ids, labels=labels)
    log_probabilities = output.logits.log_softmax(-1)[:, :-1]
    picked = log_probabilities.gather(2, ids[:, 1:, None])[..., 0][labels[:, 1:] != -100]
    torch.testing.assert_close(output.loss, -picked.mean())
    assert float(output.loss) < 0.01
    share = model(ids, labels=labels, num_items_in_batch=88).loss
    torch.testing.assert_close(share, -picked.sum() / 88)
    assert isinstance(model(ids, return_dict=False), tuple)


def test_an_empty_model_predicts_all_tokens_alike() -> None:
    model = MeMoForCausalLM(MeMoConfig(vocab_size=10, hidden_size=64))
    assert not model(ids_of([1, 2, 3])).logits.any()
    assert model.explain([]) == []


@each_composition
def test_a_stored_model_has_the_same_bytes(composition: str, tmp_path: Path) -> None:
    model = model_of(composition)
    model.save_pretrained(tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors",
    ]  # fmt: skip
    loaded = MeMoForCausalLM.from_pretrained(tmp_path / "a")
    assert state(loaded.memory) == state(model.memory)
    assert torch.equal(loaded(ids_of(TEXTS[0])).logits, model(ids_of(TEXTS[0])).logits)
    automatic: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert isinstance(automatic, MeMoForCausalLM)
    automatic.save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # What was loaded can forget.
    loaded.forget(TEXTS[:10])
    assert state(loaded.memory) == state(
        MeMoForCausalLM(model.config_class(**_sizes(model))).memorise(TEXTS[10:]).memory
    )


def _sizes(model: Any) -> dict[str, Any]:
    return {"vocab_size": 1000, "hidden_size": 512, "composition": model.config.composition}


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    config = MeMoConfig(vocab_size=1000, hidden_size=64)
    MeMoForCausalLM(config).memorise(TEXTS).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    for place in (3, content.index(b"hashes"), len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(StateError, match="is damaged"):
            MeMoForCausalLM.from_pretrained(tmp_path)
    path.write_bytes(content[:-100])
    with pytest.raises(StateError, match="is damaged"):
        MeMoForCausalLM.from_pretrained(tmp_path)
    path.write_bytes(content)
    settings = json.loads((tmp_path / "config.json").read_text())
    for name, value in (("seed", 1), ("stored_windows", 5), ("num_hidden_layers", 1), ("state_digest", "")):
        (tmp_path / "config.json").write_text(json.dumps({**settings, name: value}))
        with pytest.raises(StateError, match="is damaged"):
            MeMoForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["memory.intermediate", "memory.hashes"])
def test_a_stored_model_that_lacks_a_tensor_is_refused(name: str, tmp_path: Path) -> None:
    # Not by its digest alone: RAM that is not cleared can still hold the tensor of a model read before.
    config = MeMoConfig(vocab_size=1000, hidden_size=64)
    MeMoForCausalLM(config).memorise(TEXTS).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({other: tensors[other].clone() for other in tensors if other != name}, path, {"format": "pt"})
    with pytest.raises(StateError, match=f"is damaged: it lacks {name}"):
        MeMoForCausalLM.from_pretrained(tmp_path)


def test_a_wrong_argument_is_refused() -> None:
    model, ids = model_of(), ids_of(TEXTS[0])
    for name in ("caches", "position_ids", "kwargs"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            model(ids, **{name: None})
    with pytest.raises(TypeError, match="not as both"):
        model(ids, cache=MeMoCache(), past_key_values=MeMoCache())
    with pytest.raises(TypeError, match="MeMoCache rather than a DynamicCache"):
        model(ids, cache=DynamicCache())
    cache = MeMoCache()
    model(ids, cache=cache)
    with pytest.raises(ValueError, match="of 2 sequences rather than 1"):
        model(torch.cat((ids, ids)), cache=cache)
    with pytest.raises(ValueError, match="logit_scale is expected to be above 0"):
        MeMoConfig(logit_scale=0)
    with pytest.raises(ValueError, match="stride is expected to divide heads"):
        MeMoConfig(stride=3)


def test_explain_and_edit() -> None:
    model = model_of()
    explanations = model.explain(TEXTS[0])
    assert [explanation.token for explanation in explanations] == TEXTS[0]
    assert [(vote.layer, vote.matched) for vote in explanations[-1].votes] == [(1, 4), (2, 16)]
    edited = model.edit(TEXTS[0], TEXTS[0][10:12], [1, 2, 3])
    generated = model.generate(ids_of(edited[:6]), max_new_tokens=20, do_sample=False)
    assert generated[0].tolist() == edited


def test_the_memory_imports_no_transformers() -> None:
    script = "import sys, memagent.backends.neural.memo; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
