"""Titans language models as transformers calls them: caches under both names, `generate`, `Trainer`, wrong arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Trainer, TrainingArguments

from memagent.backends.neural.cache import CACHE_NAME, CACHE_NAMES
from memagent.backends.neural.titans import TitansCache
from tests.backends.neural.titans.test_models import VOCABULARY, each_variant, logits_of, model_of, tokens

pytestmark = pytest.mark.usefixtures("no_deprecated_names")

each_name = pytest.mark.parametrize("name", CACHE_NAMES)


def greedy_uncached(model: Any, ids: Tensor, count: int) -> Tensor:
    """Return ``ids`` and the ``count`` most probable next tokens, each predicted from the whole sequence."""
    for _ in range(count):
        ids = torch.cat((ids, logits_of(model, ids, use_cache=False)[:, -1:].argmax(-1)), 1)
    return ids


@each_name
@each_variant
def test_greedy_generation_continues_from_a_cache_under_either_name(variant: str, name: str) -> None:
    model, ids = model_of(variant), tokens(9)
    expected = greedy_uncached(model, ids, 8)
    cache = TitansCache()
    first = model.generate(ids, max_new_tokens=4, do_sample=False, **{name: cache})
    assert torch.equal(first, expected[:, :13])
    assert cache.get_seq_length() == 12
    second = model.generate(first, max_new_tokens=4, do_sample=False, **{name: cache})
    assert torch.equal(second, expected)


@each_variant
def test_generate_returns_the_cache_under_the_name_of_the_installed_transformers(variant: str) -> None:
    model, ids = model_of(variant), tokens(9)
    generated = model.generate(ids, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    cache = getattr(generated, CACHE_NAME)
    assert isinstance(cache, TitansCache)
    rest = logits_of(model, generated.sequences[:, 12:], cache=cache)
    torch.testing.assert_close(rest[:, -1], logits_of(model, generated.sequences)[:, -1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["given", *CACHE_NAMES])
@each_variant
def test_both_models_continue_from_a_cache_under_either_name(variant: str, name: str) -> None:
    model, ids = model_of(variant), tokens(17)
    whole = logits_of(model, ids)
    for module in (model, model.model):
        with torch.no_grad():
            first = module(ids[:, :7])
            cache = getattr(first, CACHE_NAME)
            assert isinstance(cache, TitansCache)
            # The cache is the third positional argument under both names.
            second = (
                module(ids[:, 7:], None, cache) if name == "given" else module(ids[:, 7:], **{name: cache})
            )
        assert getattr(second, CACHE_NAME) is cache
        output = second.logits if module is model else model.lm_head(second.last_hidden_state)
        torch.testing.assert_close(output, whole[:, 7:], rtol=0, atol=1e-11)


def test_a_wrong_argument_is_refused() -> None:
    model, ids = model_of("mag"), tokens(6)
    for module in (model, model.model):
        for name in ("caches", "cache_params", "position_ids", "output_attentions", "kwargs"):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                module(ids, **{name: None})
        with pytest.raises(TypeError, match="not as both"):
            module(ids, cache=TitansCache(), past_key_values=TitansCache())
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_items_in_batch'"):
        model.model(ids, num_items_in_batch=1)


def test_a_wrong_argument_of_generate_is_refused() -> None:
    model, ids = model_of("mag"), tokens(6)
    with pytest.raises(ValueError, match="not used by the model: \\['caches'\\]"):
        model.generate(ids, max_new_tokens=2, caches=TitansCache())
    # transformers passes these to any model.
    for name, value in (("position_ids", torch.arange(6)[None]), ("output_attentions", True)):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            model.generate(ids, max_new_tokens=2, **{name: value})
    with pytest.raises(TypeError, match="not as both"):
        model.generate(ids, max_new_tokens=2, cache=TitansCache(), past_key_values=TitansCache())
    with pytest.raises(TypeError, match="TitansCache rather than a DynamicCache"):
        model.generate(ids, max_new_tokens=2, **{CACHE_NAME: DynamicCache()})


def test_outputs_are_a_tuple_if_return_dict_is_false() -> None:
    model, ids = model_of("mal"), tokens(12)
    for module, field in ((model, "logits"), (model.model, "last_hidden_state")):
        expected = module(ids)
        output = module(ids, return_dict=False)
        assert isinstance(output, tuple)
        assert torch.equal(output[0], getattr(expected, field))
    model.config.return_dict = False
    loss, logits, *_ = model(ids, labels=ids)
    assert loss.shape == ()
    assert logits.shape == (2, 12, VOCABULARY)
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (2, 15)


def test_the_loss_is_a_mean_or_a_share_of_all_labels_of_a_step() -> None:
    model, ids = model_of("mag"), tokens(12)
    labels = ids.clone()
    labels[0, :5] = -100
    counted = int((labels[:, 1:] != -100).sum())
    mean = model(ids, labels=labels).loss
    log_probabilities = model(ids).logits.float().log_softmax(-1)[:, :-1]
    picked = log_probabilities.gather(2, ids[:, 1:, None])[..., 0][labels[:, 1:] != -100]
    torch.testing.assert_close(mean, -picked.mean())
    for items in (40, torch.tensor(40)):
        share = model(ids, labels=labels, num_items_in_batch=items).loss
        torch.testing.assert_close(share, mean * counted / 40)


def trainer_of(model: Any, rows: list[dict[str, Tensor]], folder: Path, **options: Any) -> Any:
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        max_steps=1,
        **options,
    )
    trainer: Any = Trainer
    return trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)


def rows_of(labelled: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """Return rows of 12 tokens; in row i the last ``labelled[i]`` tokens are labels."""
    rows = []
    for row, count in zip(tokens(12, batch=len(labelled)), labelled, strict=True):
        labels = row.clone()
        labels[: 12 - count] = -100
        rows.append({"input_ids": row, "labels": labels})
    return rows


def test_gradient_accumulation_weights_every_label_equally(tmp_path: Path) -> None:
    rows = rows_of((11, 2))
    trained = []
    for batch, steps in ((2, 1), (1, 2)):
        model = model_of("mag").train()
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
        trainer_of(model, rows, tmp_path, **options).train()
        trained.append(model)
    before = dict(model_of("mag").named_parameters())
    whole = dict(trained[0].named_parameters())
    for name, parameter in trained[1].named_parameters():
        torch.testing.assert_close(parameter, whole[name], rtol=0, atol=1e-6)
        assert not torch.equal(parameter, before[name]), name


def test_trainer_evaluates_without_the_cache(tmp_path: Path) -> None:
    rows = rows_of((11, 6))
    model = model_of("mac")
    trainer = trainer_of(model, rows, tmp_path, use_cache=True)
    assert getattr(model(tokens(3)), CACHE_NAME) is not None
    predictions = trainer.predict(rows).predictions
    # Only logits, no cache.
    assert predictions.shape == (2, 12, VOCABULARY)
