"""What is predicted against what is drawn: near-orthogonality, cross-talk, accuracy, and copies for reading."""

from __future__ import annotations

import pytest
import torch

from memagent.backends.neural.memo import MeMoSettings, regenerate
from memagent.backends.neural.memo.capacity import capacity, predicted_accuracy
from memagent.backends.neural.memo.reading import MatrixCopy
from memagent.backends.neural.memo.vectors import Vectors
from tests.backends.neural.memo.texts import memory_of, random_texts


def test_codes_are_nearly_orthogonal() -> None:
    """Inner products of different codes have mean 0, variance 1 / d and the largest value of so many Gaussians."""
    codes = Vectors(MeMoSettings(3000, 1024)).codes(range(2000)).float()
    cosines = (codes @ codes.T / 1024)[tuple(torch.triu_indices(2000, 2000, 1))]
    assert float(cosines.mean()) == pytest.approx(0, abs=1e-4)
    assert float(cosines.var() * 1024) == pytest.approx(1, abs=0.01)
    # The largest of 2 million Gaussian draws in magnitude is 5.2 on average, from 4.8 to 6 in nearly all trials.
    assert 4.7 < float(cosines.abs().max()) * 1024**0.5 < 6.2
    assert float((cosines.abs() * 32 > 1.96).float().mean()) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("composition", ["bound", "computed"])
def test_keys_have_the_predicted_cross_talk(composition: str) -> None:
    memory = memory_of(composition=composition, layers=2, heads=4)
    texts = random_texts(400, 16)
    keys, _ = memory.query_keys(texts, [1] * 400)
    for layer in range(2):
        products = (keys[layer] @ keys[layer].T)[tuple(torch.triu_indices(400, 400, 1))]
        assert float(products.square().mean()) == pytest.approx(512 * memory.settings.noise, rel=0.05)


@pytest.mark.parametrize("composition", ["bound", "computed"])
@pytest.mark.parametrize("texts", [60, 110])
def test_the_predicted_accuracy_is_that_of_a_full_memory(composition: str, texts: int) -> None:
    memory = memory_of(dim=256, heads=4, layers=1, composition=composition, vocab_size=100_000)
    stored = random_texts(texts, 40, vocabulary=100_000)
    memory.memorise(stored)
    correct = total = 0
    for text in stored:
        places = len(text) - 4
        keys, _ = memory.query_keys([text[:-1]], [places])
        _, best = memory.reading.best(keys, 1)
        correct, total = correct + int((best[:, 0] == torch.tensor(text[4:])).sum()), total + places
    assert memory.predicted_accuracy == pytest.approx(correct / total, abs=0.04)
    assert (memory.load > 1) == (memory.predicted_accuracy < 0.9)


def test_the_law_is_near_the_papers_measurements() -> None:
    """The paper's runs at vocabulary 100,000: 8,000 pairs at 512 x 512, 30,000 to 31,000 at 1,024 x 1,024."""
    assert capacity(512, 512, 100_000) == pytest.approx(8000, rel=0.05)
    assert capacity(1024, 1024, 100_000) == pytest.approx(31_000, rel=0.06)
    assert predicted_accuracy(capacity(512, 512, 100_000, 0.5), 512, 512, 100_000) == pytest.approx(
        0.5, abs=1e-3
    )
    assert predicted_accuracy(0, 512, 512, 10) == 1


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.int8, 0.03)]
)
def test_copies_for_reading_retrieve_nearly_the_same(dtype: torch.dtype, tolerance: float) -> None:
    memory, texts = memory_of(), random_texts(100, 25)
    memory.memorise(texts)
    copy = MatrixCopy.of(memory.last, dtype)
    assert copy.matrix.dtype == dtype
    keys, _ = memory.query_keys(texts, [1] * 100)
    expected, actual = MatrixCopy.of(memory.last, torch.float32).retrieve(keys[0]), copy.retrieve(keys[0])
    assert float((actual - expected).norm() / expected.norm()) <= tolerance


def test_copies_do_not_saturate() -> None:
    matrix = torch.tensor([[2**31 - 1, -(2**31) + 1], [70_000, 1]], dtype=torch.int32)
    for dtype in (torch.float32, torch.float16, torch.int8):
        copy = MatrixCopy.of(matrix, dtype)
        restored = copy.matrix.double() * copy.scale
        torch.testing.assert_close(restored[0], matrix[0].double(), rtol=1e-3, atol=0)
    assert MatrixCopy.of(torch.zeros(2, 2, dtype=torch.int32), torch.int8).scale == 1
    with pytest.raises(ValueError, match="float32, float16 or int8 rather than torch.bfloat16"):
        MatrixCopy.of(matrix, torch.bfloat16)


def test_confidence_is_a_probability_of_the_best_token() -> None:
    """At a load where a tenth of the tokens is wrong, confident tokens are right and doubtful ones often wrong."""
    memory = memory_of(dim=128, layers=1)
    texts = random_texts(25, 25)
    memory.memorise(texts)
    pairs = []
    for text in texts:
        for place in range(4, 25):
            result = regenerate(memory, [text[:place]], limit=1)[0]
            pairs.append((result.confidences[0], result.ids[0] == text[place]))
    sure = [correct for confidence, correct in pairs if confidence > 0.95]
    doubtful = [correct for confidence, correct in pairs if confidence < 0.8]
    assert sum(sure) / len(sure) > 0.95
    assert sum(doubtful) / len(doubtful) < sum(sure) / len(sure) - 0.1
