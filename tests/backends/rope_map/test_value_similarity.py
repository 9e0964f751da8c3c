"""Value similarity: what whitening does to values, and which tokens are nearest after it."""

from __future__ import annotations

import torch

from memagent.backends.rope_map.tuning import DEFAULT_TUNING
from memagent.backends.rope_map.value_similarity import fit_value_similarity
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.tiny import random_chunk

HEADS = ((0, 1), (2, 0), (1, 1))
RIDGE = DEFAULT_TUNING.whitening_ridge


def test_embeddings_have_length_one_and_each_head_the_same_share() -> None:
    similarity = fit_value_similarity(HEADS, random_chunk(300).values, RIDGE)
    embeddings = similarity.embed(random_chunk(9, seed=1).values)
    assert embeddings.shape == (9, 3 * make.HEAD_DIM)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(9))
    parts = embeddings.view(9, 3, make.HEAD_DIM).norm(dim=2)
    torch.testing.assert_close(parts, torch.full((9, 3), 3**-0.5))
    assert similarity.num_layers == 3


def test_whitening_removes_the_mean_and_the_covariance() -> None:
    """After it, the components of values with a strong common direction and very unequal scales count the same."""
    random = torch.Generator().manual_seed(0)
    scales = torch.logspace(-1, 1, make.HEAD_DIM)
    values = 5 + torch.randn(20_000, 1, 1, make.HEAD_DIM, generator=random) * scales
    similarity = fit_value_similarity([(0, 0)], values, RIDGE)
    whitened = torch.einsum("td,de->te", values[:, 0, 0] - similarity.mean[0], similarity.whitening[0])
    covariance = whitened.T @ whitened / len(whitened)
    ridge = RIDGE * float(scales.square().mean())
    expected = (scales.square() / (scales.square() + ridge)).sort().values
    torch.testing.assert_close(covariance.diagonal().sort().values, expected, atol=0.02, rtol=0.02)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 0.02


def test_tokens_with_the_same_content_are_nearest_at_any_magnitude() -> None:
    similarity = fit_value_similarity(HEADS, random_chunk(300).values, RIDGE)
    stored = random_chunk(50, seed=1).values.float()
    mean = similarity.mean[0]
    larger = stored.clone()
    larger[:, 0, 1] = mean + 3 * (stored[:, 0, 1] - mean)
    assert torch.equal((similarity.embed(larger) @ similarity.embed(stored).T).argmax(1), torch.arange(50))


def test_a_component_that_never_varies_does_no_harm() -> None:
    values = random_chunk(100).values.clone()
    values[..., 3] = 1.0
    embeddings = fit_value_similarity(HEADS, values, RIDGE).embed(values)
    assert embeddings.isfinite().all()
