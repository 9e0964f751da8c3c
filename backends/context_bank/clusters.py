"""Clusters of a bank's vectors, so that a query is compared with a few of them instead of all.

Clusters are derived from the bank and never stored. Once computed, their centroids stay while vectors come and go: each vector
belongs to the centroid most similar to it, whichever path led to the present vectors. The centroids themselves are those of the
vectors they were computed from. So clusters that were kept up can propose other candidates than clusters that are computed afresh;
below ``brute_force_below`` vectors, both propose all.

Clusters of clusters did not pay (benchmarks/context_bank_clusters.py): as many of them, built in two levels, had the lower recall at
the same share of scanned vectors at every size from 100,000; ten times as many took 8 times as long to build at a million vectors, for
0.04 to 0.11 more recall.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memagent.backends.context_bank.blocks import Floats, Integers
from memagent.backends.errors import MissingExtraError

BRUTE_FORCE_BELOW = 10_000
"""Number of vectors below which all are candidates. Clusters are faster from about 3,000 (192 elements), but comparing a query with
10,000 takes 0.6 ms, less than anyone notices; clustering them takes half a second (benchmarks/context_bank_clusters.py)."""
MAX_GROWTH = 1.5
"""Clusters are computed afresh when the vectors are so many times more, or fewer, than they were computed from."""
MAX_DRIFT = 1.2
"""Clusters are computed afresh when the mean cosine distance to the nearest centroid has grown by this factor."""
_ROWS_AT_ONCE = 8192
_SAMPLE_PER_CLUSTER = 128
"""Vectors of each cluster that centroids are computed from; more of them change nothing but the time."""


class Clusters:
    """Groups vectors around centroids by mini-batch k-means, about as many as the square root of their number.

    Args:
        seed: of the k-means.
        brute_force_below: number of vectors below which all are candidates.

    Raises:
        MissingExtraError: vectors are to be clustered, and scikit-learn is not installed.
    """

    def __init__(self, seed: int = 0, brute_force_below: int = BRUTE_FORCE_BELOW) -> None:
        self._seed, self._brute_force_below = seed, brute_force_below
        self._fingerprints = np.zeros(0, np.uint64)
        self._labels = np.zeros(0, np.int32)
        self._distances = np.zeros(0, np.float32)
        self._order, self._starts = np.zeros(0, np.int64), np.zeros(1, np.int64)
        self._fitted_size, self._fitted_distance = 0, 0.0
        self.centroids: Floats | None = None
        self.fits = 0

    def __len__(self) -> int:
        return 0 if self.centroids is None else len(self.centroids)

    @property
    def labels(self) -> NDArray[np.int32]:
        """The cluster of each vector, ``[n]``; empty while all vectors are candidates."""
        return self._labels

    def update(self, keys: Floats) -> None:
        """Take over the present vectors. Those that were there before keep their cluster; others join the nearest centroid.

        Args:
            keys: unit vectors, float32 ``[n, dim]``, in any order.
        """
        fingerprints = _fingerprints(keys)
        if len(keys) < self._brute_force_below:
            self.centroids = None
            self._labels, self._distances = np.zeros(0, np.int32), np.zeros(0, np.float32)
        elif self.centroids is None or not self._is_similar_size(len(keys)):
            self._fit(keys)
        elif not np.array_equal(fingerprints, self._fingerprints):
            self._follow(keys, fingerprints, self.centroids)
            if self._distances.mean() > MAX_DRIFT * self._fitted_distance:
                self._fit(keys)
        else:
            return
        self._fingerprints = fingerprints
        self._order = np.argsort(self._labels, kind="stable")
        sizes = np.bincount(self._labels, minlength=len(self))
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])

    def candidates(self, queries: Floats, top_k: int) -> Integers:
        """Return the vectors of the clusters that are most similar to a query.

        Args:
            queries: ``[dim]`` or ``[m, dim]``; of several queries the candidates are joined.
            top_k: number of clusters for each query, 1 or more.

        Returns:
            Indices into the vectors of the last ``update``, ascending.
        """
        if self.centroids is None:
            return np.arange(len(self._fingerprints))
        scores = np.atleast_2d(queries) @ self.centroids.T
        top_k = min(top_k, len(self))
        clusters = np.unique(np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k])
        parts = [self._order[self._starts[cluster] : self._starts[cluster + 1]] for cluster in clusters]
        return np.sort(np.concatenate(parts))

    def _is_similar_size(self, size: int) -> bool:
        return self._fitted_size <= MAX_GROWTH * size and size <= MAX_GROWTH * self._fitted_size

    def _fit(self, keys: Floats) -> None:
        self.centroids = fit_centroids(keys, math.isqrt(len(keys)), self._seed)
        self._labels, self._distances = nearest_centroids(keys, self.centroids)
        self._fitted_size, self._fitted_distance = len(keys), float(self._distances.mean())
        self.fits += 1

    def _follow(self, keys: Floats, fingerprints: NDArray[np.uint64], centroids: Floats) -> None:
        """Keep the cluster of vectors that were here before, and assign new ones to the nearest centroid."""
        order = np.argsort(self._fingerprints, kind="stable")
        places = np.searchsorted(self._fingerprints, fingerprints, sorter=order).clip(max=len(order) - 1)
        former = order[places]
        is_new = self._fingerprints[former] != fingerprints
        labels, distances = self._labels[former], self._distances[former]
        labels[is_new], distances[is_new] = nearest_centroids(keys[is_new], centroids)
        self._labels, self._distances = labels, distances


def fit_centroids(keys: Floats, num_clusters: int, seed: int) -> Floats:
    """Return unit centroids ``[clusters, dim]`` of unit vectors ``[n, dim]``, by mini-batch k-means.

    Scaled to length 1, centroids at an equal share of scanned vectors had the higher recall: with 224 clusters of 50,000 vectors and
    the nearest cluster alone 1.000 at 0.51 %, against 0.975 at 0.48 %.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise MissingExtraError("Clustered retrieval", error.name or "sklearn", "cluster") from error
    sample = keys
    if len(keys) > _SAMPLE_PER_CLUSTER * num_clusters:
        drawn = np.random.default_rng(seed).choice(
            len(keys), _SAMPLE_PER_CLUSTER * num_clusters, replace=False
        )
        sample = keys[np.sort(drawn)]
    kmeans: Any = MiniBatchKMeans(
        num_clusters,
        n_init=1,
        batch_size=max(1024, 4 * num_clusters),
        max_iter=10,
        compute_labels=False,
        random_state=seed,
    )
    centroids = kmeans.fit(sample).cluster_centers_
    norms = np.linalg.norm(centroids, axis=1, keepdims=True)
    units: Floats = (centroids / np.where(norms > 0, norms, 1)).astype(np.float32)
    return units


def nearest_centroids(keys: Floats, centroids: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Return the most similar centroid of each vector, and its cosine distance, each ``[n]``; all are unit vectors."""
    labels, distances = np.zeros(len(keys), np.int32), np.zeros(len(keys), np.float32)
    for start in range(0, len(keys), _ROWS_AT_ONCE):
        cosines = keys[start : start + _ROWS_AT_ONCE] @ centroids.T
        nearest = cosines.argmax(axis=1)
        labels[start : start + len(cosines)] = nearest
        distances[start : start + len(cosines)] = 1 - cosines[np.arange(len(cosines)), nearest]
    return labels, distances


def _fingerprints(keys: Floats) -> NDArray[np.uint64]:
    """Return a hash of each vector, ``[n]``, by which it is known again."""
    factors = np.random.default_rng(0).integers(0, 2**63, keys.shape[1], np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    words = np.ascontiguousarray(keys).view(np.uint32)
    parts = [
        (words[start : start + _ROWS_AT_ONCE] * factors).sum(axis=1, dtype=np.uint64)
        for start in range(0, len(keys), _ROWS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *parts])
