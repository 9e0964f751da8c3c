"""Generating with a memory attached: with and without a cache, after the whole text, in a padded batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.hooks import attention_hook
from memagent.backends.shared.attention.injection import Placement
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.injecting import FIRST, SECOND, memory_of
from tests.backends.rope_map.tiny import FAMILIES, Tiny, tiny, tokens

pytestmark = pytest.mark.usefixtures("no_deprecated_names")


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
    with attention_hook(local.model, memory_of(local, TokenSpan([], FIRST), placement=placement)):
        cached = generated(local, [SECOND], use_cache=True)
        plain = generated(local, [SECOND], use_cache=False)
    assert cached.sequences.tolist() == plain.sequences.tolist()
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-4, rtol=1e-4)


def test_generating_goes_on_as_after_the_whole_text() -> None:
    local = tiny()
    with attention_hook(local.model, memory_of(local, TokenSpan([], FIRST))):
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
    with attention_hook(local.model, memory_of(local, TokenSpan([], FIRST), placement=placement)):
        both = torch.stack(
            generated(local, [long, [1] * missing + short], use_cache=True, mask=mask).logits, 1
        )
        alone = [torch.stack(generated(local, [ids], use_cache=True).logits, 1)[0] for ids in (long, short)]
    torch.testing.assert_close(both[0], alone[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[1], alone[1], atol=1e-4, rtol=1e-4)
