"""The likeness of values: what whitening makes of them."""

from __future__ import annotations

import torch

from memagent.backends.rope_map import value_similarity as likeness
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.tiny import drawn

HEADS = ((0, 1), (2, 0), (1, 1))


def test_joined_values_have_length_one_and_each_head_the_same_share() -> None:
    alike = likeness.learn(HEADS, drawn(300).values)
    joined = alike(drawn(9, seed=1).values)
    assert joined.shape == (9, 3 * make.HEAD_DIM)
    torch.testing.assert_close(joined.norm(dim=1), torch.ones(9))
    parts = joined.view(9, 3, make.HEAD_DIM).norm(dim=2)
    torch.testing.assert_close(parts, torch.full((9, 3), 3**-0.5))
    assert alike.depth == 3


def test_whitening_undoes_the_mean_and_the_covariance() -> None:
    """Of values with a strong common direction and very unequal components, each component counts the same after it."""
    random = torch.Generator().manual_seed(0)
    scales = torch.logspace(-1, 1, make.HEAD_DIM)
    values = 5 + torch.randn(20_000, 1, 1, make.HEAD_DIM, generator=random) * scales
    alike = likeness.learn([(0, 0)], values)
    white = torch.einsum("td,de->te", values[:, 0, 0] - alike.mean[0], alike.whitening[0])
    covariance = white.T @ white / len(white)
    ridge = likeness.RIDGE * float(scales.square().mean())
    expected = (scales.square() / (scales.square() + ridge)).sort().values
    torch.testing.assert_close(covariance.diagonal().sort().values, expected, atol=0.02, rtol=0.02)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 0.02


def test_tokens_with_the_same_content_are_nearest_however_loud_they_are() -> None:
    alike = likeness.learn(HEADS, drawn(300).values)
    stored = drawn(50, seed=1).values.float()
    mean = alike.mean[0]
    louder = stored.clone()
    louder[:, 0, 1] = mean + 3 * (stored[:, 0, 1] - mean)
    assert torch.equal((alike(louder) @ alike(stored).T).argmax(1), torch.arange(50))


def test_a_component_that_never_varies_does_no_harm() -> None:
    values = drawn(100).values.clone()
    values[..., 3] = 1.0
    joined = likeness.learn(HEADS, values)(values)
    assert joined.isfinite().all()
