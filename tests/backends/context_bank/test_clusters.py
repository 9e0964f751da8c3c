"""Clusters: deterministic, kept up as vectors come and go, all vectors below a size."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from memagent.backends.context_bank.clusters import Clusters, nearest_centroids
from memagent.backends.errors import MissingExtraError

SIZE = 400


def keys(seed: int, size: int = SIZE, topics: int = 20) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(topics, 16))
    vectors = centres[draw.integers(topics, size=size)] + draw.normal(size=(size, 16)) / 3
    units: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


def clustered(*updates: NDArray[np.float32], seed: int = 0) -> Clusters:
    pytest.importorskip("sklearn")
    clusters = Clusters(seed, brute_force_below=100)
    for vectors in updates:
        clusters.update(vectors)
    return clusters


def test_below_a_size_all_vectors_are_candidates() -> None:
    clusters = Clusters()
    assert clusters.candidates(keys(1)[0], 1).tolist() == []
    clusters.update(keys(1))
    assert clusters.candidates(keys(1)[0], 1).tolist() == list(range(SIZE))
    assert len(clusters) == len(clusters.labels) == 0


def test_a_vector_is_a_candidate_of_itself() -> None:
    vectors = keys(1)
    clusters = clustered(vectors)
    assert len(clusters) == 20
    for place in range(0, SIZE, 13):
        candidates = clusters.candidates(vectors[place], 1)
        assert place in candidates
        assert len(candidates) < SIZE / 4
        assert (np.diff(candidates) > 0).all()


def test_more_clusters_hold_more_candidates_up_to_all() -> None:
    clusters = clustered(keys(1))
    query = keys(2)[0]
    sets = [set(clusters.candidates(query, top_k).tolist()) for top_k in (1, 3, 20, 99)]
    assert sets[0] < sets[1] < sets[2] == sets[3] == set(range(SIZE))


def test_the_candidates_of_several_queries_are_joined() -> None:
    clusters = clustered(keys(1))
    first, second = keys(2)[:2]
    joined = set(clusters.candidates(keys(2)[:2], 2).tolist())
    assert joined == {*clusters.candidates(first, 2).tolist(), *clusters.candidates(second, 2).tolist()}


def test_clusters_are_deterministic() -> None:
    first, second = clustered(keys(1)), clustered(keys(1))
    assert first.centroids is not None
    assert second.centroids is not None
    assert first.centroids.tobytes() == second.centroids.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()


def test_every_vector_belongs_to_its_nearest_centroid_whichever_path_led_there() -> None:
    vectors, draw = keys(1), np.random.default_rng(3)
    clusters = clustered(vectors)
    for _ in range(10):
        kept = draw.permutation(len(vectors))[: SIZE - 60]
        vectors = np.concatenate([vectors[kept], keys(int(draw.integers(1000)), 60)])
        clusters.update(vectors)
        assert clusters.centroids is not None
        np.testing.assert_array_equal(clusters.labels, nearest_centroids(vectors, clusters.centroids)[0])
        assert len(clusters.candidates(vectors[0], 99)) == len(vectors)
    assert clusters.fits == 1


def test_vectors_in_another_order_keep_their_clusters() -> None:
    vectors = keys(1)
    clusters, reversed_clusters = clustered(vectors), clustered(vectors, vectors[::-1])
    np.testing.assert_array_equal(clusters.labels, reversed_clusters.labels[::-1])


@pytest.mark.parametrize("size", [SIZE * 2, SIZE // 2])
def test_clusters_are_computed_afresh_when_the_bank_grew_or_shrank_by_half(size: int) -> None:
    afresh = clustered(keys(2, size))
    kept_up = clustered(keys(1), keys(2, size))
    assert kept_up.fits == 2
    assert kept_up.labels.tobytes() == afresh.labels.tobytes()


def test_clusters_are_computed_afresh_when_vectors_have_drifted_from_them() -> None:
    other = keys(5) * np.where(np.arange(16) % 2, -1, 1).astype(np.float32)
    assert clustered(keys(1), keys(5)).fits == 1
    assert clustered(keys(1), other).fits == 2


def test_a_bank_that_shrank_below_the_size_has_no_clusters() -> None:
    clusters = clustered(keys(1), keys(1)[:50])
    assert len(clusters) == 0
    assert clusters.candidates(keys(1)[0], 1).tolist() == list(range(50))


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'memagent\[cluster\]'"):
        Clusters(brute_force_below=100).update(keys(1))
