"""Titans models learn to recall tokens beyond their attention with a memory, and not without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from memagent.backends.neural.titans import TitansConfig, TitansForCausalLM

VALUES, BLANK, ASK = 8, 8, 9
LENGTH, WINDOW = 14, 5


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Return a value, blanks, a question and the value again; only the last token is a label."""
    ids = torch.full((size, LENGTH), BLANK)
    ids[:, 0] = ids[:, -1] = torch.randint(VALUES, (size,))
    ids[:, -2] = ASK
    labels = torch.full_like(ids, -100)
    labels[:, -1] = ids[:, -1]
    return ids, labels


def accuracy_after_training(steps: int, **options: Any) -> float:
    """Train until ten batches in a row are answered without an error, for ``steps`` at most."""
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "vocab_size": 10,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "memory_width": 16,
        "chunk_size": 7,
        "window": WINDOW,
        "persistent_tokens": 2,
    }
    model: Any = TitansForCausalLM(TitansConfig(**{**small, **options}))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.0)
    faultless = 0
    for _ in range(steps):
        ids, labels = batch(32)
        output = model(ids, labels=labels)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        correct = bool((output.logits[:, -2].argmax(-1) == ids[:, -1]).all())
        faultless = faultless + 1 if correct else 0
        if faultless == 10:
            break
    ids, labels = batch(256)
    with torch.no_grad():
        guess = model.eval()(ids).logits[:, -2].argmax(-1)
    return float((guess == ids[:, -1]).float().mean())


@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm"])
def test_a_value_beyond_the_window_is_recalled(variant: str) -> None:
    assert accuracy_after_training(150, variant=variant) > 0.95


@pytest.mark.parametrize("variant", ["mac", "mag", "mal"])
def test_without_memory_it_is_not(variant: str) -> None:
    assert accuracy_after_training(150, variant=variant, memory=False) < 0.3  # chance is 1/8
