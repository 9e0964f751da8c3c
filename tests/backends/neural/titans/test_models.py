"""Titans language models: causality, caches, storage, generation, and gradients of every parameter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache

from memagent.backends.neural.cache import CACHE_NAME
from memagent.backends.neural.titans import TitansCache, TitansConfig, TitansForCausalLM, TitansModel

VARIANTS = ("mac", "mag", "mal", "lmm")
VOCABULARY, WINDOW = 40, 6
each_variant = pytest.mark.parametrize("variant", VARIANTS)
# Options that take different paths through the code.
OPTIONS: dict[str, dict[str, Any]] = {
    "whole": {},
    "matrix": {"memory_depth": 1, "persistent_tokens": 0},
    "deep": {"memory_depth": 3, "chunk_size": 5, "num_hidden_layers": 1},
    "bare": {"momentum": False, "decay": False, "convolution": False},
    "narrow": {"window": 1, "conv_width": 2, "chunk_size": 1},
}


def model_of(variant: str, **options: Any) -> Any:
    """A tiny `TitansForCausalLM` in float64, so that equal results agree in many digits.

    Untyped, because the annotations of transformers do not admit what `generate` and `to` are called with.
    """
    torch.manual_seed(7)
    small: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "memory_width": 12,
        "chunk_size": 4,
        "window": WINDOW,
        "persistent_tokens": 3,
    }
    model: Any = TitansForCausalLM(TitansConfig(variant=variant, **{**small, **options}))
    return model.double().eval()


def tokens(length: int, batch: int = 2) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(3))


def logits_of(model: Any, ids: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(ids, **options).logits
    return logits


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@each_variant
def test_logits_do_not_depend_on_later_tokens(variant: str, options: dict[str, Any]) -> None:
    model, ids = model_of(variant, **options), tokens(23)
    logits = logits_of(model, ids)
    for position in (1, WINDOW - 1, WINDOW, 8, 15, 22):
        changed = ids.clone()
        changed[:, position:] = (changed[:, position:] + 1) % VOCABULARY
        other = logits_of(model, changed)
        torch.testing.assert_close(other[:, :position], logits[:, :position], rtol=0, atol=1e-11)
        assert (other[:, position] - logits[:, position]).abs().max() > 1e-6


@each_variant
def test_memory_reaches_beyond_the_windows(variant: str) -> None:
    length = 3 * WINDOW + 2  # two layers of windows see 2 * (WINDOW - 1) tokens back
    ids = tokens(length)
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % VOCABULARY
    model = model_of(variant)
    assert (logits_of(model, changed)[:, -1] - logits_of(model, ids)[:, -1]).abs().max() > 1e-9
    if variant != "lmm":
        forgetful = model_of(variant, memory=False)
        assert torch.equal(logits_of(forgetful, changed)[:, -1], logits_of(forgetful, ids)[:, -1])


@pytest.mark.parametrize("options", [*OPTIONS.values(), {"memory": False}], ids=[*OPTIONS, "no memory"])
@each_variant
def test_reading_in_parts_gives_the_logits_of_reading_at_once(variant: str, options: dict[str, Any]) -> None:
    if variant == "lmm" and options.get("memory") is False:
        pytest.skip("lmm is its memory")
    model, ids = model_of(variant, **options), tokens(27)
    whole = logits_of(model, ids)
    for lengths in ([1] * 27, [3, 1, 8, 15], [WINDOW, 2 * WINDOW, 9], [26, 1]):
        cache = TitansCache()
        parts = [logits_of(model, part, cache=cache) for part in torch.split(ids, lengths, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-11)
        assert cache.get_seq_length() == 27


@each_variant
def test_a_copied_cache_stays_valid(variant: str) -> None:
    model, ids = model_of(variant), tokens(20)
    whole = logits_of(model, ids)
    cache = TitansCache()
    logits_of(model, ids[:, :13], cache=cache)
    kept = cache.copy()
    logits_of(model, ids[:, :5], cache=cache)
    again = logits_of(model, ids[:, 13:], cache=kept)
    torch.testing.assert_close(again, whole[:, 13:], rtol=0, atol=1e-11)


@each_variant
def test_a_cache_does_not_grow(variant: str) -> None:
    model = model_of(variant)
    sizes = []
    for length in (8 * WINDOW, 24 * WINDOW):
        cache = TitansCache()
        logits_of(model, tokens(length), cache=cache)
        attention = cache.blocks[0].attention
        memory = cache.blocks[0].memory
        assert memory is not None
        sizes.append(
            (attention and attention.key.numel(), memory.state.key.numel(), memory.conv_state.numel())
        )
    assert sizes[0] == sizes[1]


@each_variant
def test_a_stored_model_predicts_the_same(variant: str, tmp_path: Path) -> None:
    model, ids = model_of(variant), tokens(15)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    # Where a tensor lies in memory decides how its products are rounded.
    torch.testing.assert_close(logits_of(loaded.eval(), ids), logits_of(model, ids), rtol=0, atol=1e-13)
    assert isinstance(loaded, TitansForCausalLM)
    assert AutoConfig.from_pretrained(tmp_path).variant == variant
    body: Any = AutoModel.from_pretrained(tmp_path, dtype=torch.float64)
    states = body.eval()(ids).last_hidden_state
    assert isinstance(body, TitansModel)
    torch.testing.assert_close(model.lm_head(states), model(ids).logits, rtol=0, atol=1e-12)


@each_variant
def test_generation_from_the_cache_takes_the_most_probable_tokens(variant: str) -> None:
    model, ids = model_of(variant), tokens(9)
    generated = model.generate(ids, max_new_tokens=8, do_sample=False)
    expected = ids
    for _ in range(8):
        best = logits_of(model, expected)[:, -1:].argmax(-1)
        expected = torch.cat((expected, best), 1)
    assert torch.equal(generated, expected)
    alone = model.generate(ids[1:], max_new_tokens=8, do_sample=False)
    assert torch.equal(alone, generated[1:])
    uncached = model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(uncached, generated)


@each_variant
def test_generation_samples_searches_beams_and_continues(variant: str) -> None:
    model, ids = model_of(variant), tokens(9)
    assert model.generate(ids, max_new_tokens=4, do_sample=True, num_return_sequences=2).shape == (4, 13)
    beams = model.generate(ids, max_new_tokens=6, do_sample=False, num_beams=3)
    assert torch.equal(
        beams, model.generate(ids, max_new_tokens=6, do_sample=False, num_beams=3, use_cache=False)
    )
    cache = TitansCache()
    first = model.generate(ids, max_new_tokens=4, do_sample=False, cache=cache)
    second = model.generate(first, max_new_tokens=4, do_sample=False, cache=cache)
    assert torch.equal(second, model.generate(ids, max_new_tokens=8, do_sample=False))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@each_variant
def test_every_parameter_is_trained(variant: str, options: dict[str, Any]) -> None:
    model, ids = model_of(variant, **options).train(), tokens(17)
    outputs = model(ids, labels=ids)
    assert getattr(outputs, CACHE_NAME) is None
    outputs.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A window of one token, or a memory that begins anew with it, needs no queries.
        if options.get("window") != 1:
            assert parameter.grad.abs().sum() > 0, name


@each_variant
def test_gradients_match_finite_differences(variant: str) -> None:
    model, ids = model_of(variant, num_hidden_layers=1), tokens(11)
    weights = torch.randn(2, 11, VOCABULARY, dtype=torch.float64)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad((model(ids).logits * weights).sum(), parameters)
    direction = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((gradient * step).sum() for gradient, step in zip(gradients, direction, strict=True))
    sums = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, change in zip(parameters, direction, strict=True):
                parameter.add_(change, alpha=step)
            sums.append((model(ids).logits * weights).sum())
    torch.testing.assert_close((sums[0] - sums[1]) / 2e-6, slope, rtol=1e-5, atol=1e-6)


@each_variant
def test_a_model_in_bfloat16_keeps_its_memory_in_float32(variant: str) -> None:
    model, ids = model_of(variant), tokens(15)
    cache = TitansCache()
    exact = logits_of(model, ids)
    logits = logits_of(model.to(torch.bfloat16), ids, cache=cache)
    memory = cache.blocks[0].memory
    assert memory is not None
    assert memory.state.weights[0].dtype == torch.float32
    assert (logits.double() - exact).abs().max() < 0.1


def test_logits_of_the_last_tokens_only() -> None:
    model, ids = model_of("mag"), tokens(12)
    torch.testing.assert_close(logits_of(model, ids, logits_to_keep=2), logits_of(model, ids)[:, -2:])


def test_hidden_states_are_the_inputs_of_the_blocks() -> None:
    model, ids = model_of("mal"), tokens(12)
    states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == 3
    torch.testing.assert_close(states[0], model.get_input_embeddings()(ids))
    torch.testing.assert_close(model.lm_head(states[-1]), model(ids).logits)
    torch.testing.assert_close(model(inputs_embeds=states[0]).logits, model(ids).logits)


def test_logits_stay_finite_over_4000_tokens() -> None:
    model = model_of("lmm", num_hidden_layers=1).float()
    ids = tokens(4000, batch=1)
    ids[:, 2000:] = 5  # the same key again and again
    assert logits_of(model, ids).isfinite().all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"variant": "mad"}, "variant is expected to be one of"),
        ({"variant": "lmm", "memory": False}, "memory alone"),
        ({"memory_depth": 5}, "1 to 4 rather than 5"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "multiple of twice num_attention_heads"),
        ({"window": 0}, "window is expected to be at least 1"),
        ({"memory_step": 0.0}, "above 0"),
        ({"persistent_tokens": -1}, "0 or more"),
    ],
)
def test_a_config_that_fits_no_model_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TitansConfig(**options)


def test_wrong_input_is_refused() -> None:
    model, ids = model_of("mac"), tokens(6)
    padded = torch.ones_like(ids)
    padded[0, 0] = 0
    with pytest.raises(ValueError, match="all ones"):
        model(ids, attention_mask=padded)
    with pytest.raises(TypeError, match="TitansCache rather than a DynamicCache"):
        model(ids, cache=DynamicCache())
    cache = TitansCache()
    logits_of(model_of("mac", num_hidden_layers=1), ids, cache=cache)
    with pytest.raises(ValueError, match="2 blocks rather than 1"):
        model(ids, cache=cache)
    with pytest.raises(ValueError, match="not both"):
        model(ids, inputs_embeds=model.get_input_embeddings()(ids))
