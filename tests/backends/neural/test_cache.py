"""Caches under both names, and the rule that every model declares all its arguments."""

from __future__ import annotations

import inspect
import pkgutil
from dataclasses import make_dataclass
from importlib import import_module
from typing import Any

import pytest
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

import memagent.backends
from memagent.backends.neural.cache import CACHE_NAME, CACHE_NAMES, cache_field, resolve_cache


def model_classes() -> list[Any]:
    """Return every Hugging Face model class of memagent, after importing all backends."""
    for module in pkgutil.walk_packages(memagent.backends.__path__, "memagent.backends."):
        import_module(module.name)
    classes, ours = [PreTrainedModel], []
    while classes:
        for subclass in classes.pop().__subclasses__():
            classes.append(subclass)
            if subclass.__module__.startswith("memagent."):
                ours.append(subclass)
    return ours


@pytest.mark.parametrize(
    ("field_names", "expected"),
    [
        (["logits", "past_key_values"], "past_key_values"),
        (["logits", "cache"], "cache"),
        (["cache", "cache_position"], "cache"),
    ],
)
def test_cache_field_returns_the_name_in_the_output_class(field_names: list[str], expected: str) -> None:
    assert cache_field(make_dataclass("Output", field_names)) == expected


@pytest.mark.parametrize("field_names", [["logits"], ["cache", "past_key_values"], ["state"]])
def test_an_output_class_without_exactly_one_known_name_is_refused(field_names: list[str]) -> None:
    with pytest.raises(
        ValueError, match="Output is expected to have one field named cache or past_key_values"
    ):
        cache_field(make_dataclass("Output", field_names))


def test_cache_name_is_that_of_the_installed_transformers() -> None:
    for output_class in (BaseModelOutputWithPast, CausalLMOutputWithPast):
        assert cache_field(output_class) == CACHE_NAME
    # generate passes the cache under the name that this method declares.
    assert CACHE_NAME in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters


def test_a_cache_is_accepted_under_either_name_but_not_under_both() -> None:
    # An empty cache may be false; only None means no cache.
    empty: list[int] = []
    assert resolve_cache(empty, None) is empty
    assert resolve_cache(None, empty) is empty
    assert resolve_cache(None, None) is None
    with pytest.raises(TypeError, match="not as both"):
        resolve_cache(empty, empty)


def test_every_model_declares_all_its_arguments() -> None:
    classes = [model for model in model_classes() if "forward" in vars(model)]
    assert {"TitansModel", "TitansForCausalLM"} <= {model.__name__ for model in classes}
    for model in classes:
        parameters = inspect.signature(model.forward).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, model
        assert inspect.Parameter.VAR_POSITIONAL not in kinds, model
        assert set(CACHE_NAMES) <= set(parameters), model
        assert set(CACHE_NAMES) <= set(model.config_class.keys_to_ignore_at_inference), model
        assert set(CACHE_NAMES) <= set(model._skip_keys_device_placement), model


def test_every_language_model_accepts_both_names_in_generate_and_num_items_in_batch() -> None:
    classes = [model for model in model_classes() if model.can_generate()]
    assert "TitansForCausalLM" in {model.__name__ for model in classes}
    for model in classes:
        assert set(CACHE_NAMES) <= set(inspect.signature(model.generate).parameters), model
        assert "num_items_in_batch" in inspect.signature(model.forward).parameters, model
        assert model.accepts_loss_kwargs is True, model
