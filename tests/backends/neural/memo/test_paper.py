"""The paper's memory: its examples, its distiller, and how it forgets; and `MeMoMemory` beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memagent.backends.neural.memo.paper import PaperMeMo
from tests.backends.neural.memo.texts import memory_of, weights_after

each_kind = pytest.mark.parametrize("codes", ["retrieved", "projected", "product"])
each_stride = pytest.mark.parametrize("stride", [1, 2])


def weights(memory: PaperMeMo, context: list[int]) -> Tensor:
    return memory.embedding @ memory.retrieve(torch.tensor([context]))[0]


def test_the_papers_example_of_one_layer() -> None:
    """Words 0 to 9 are the sentence; 10 is "or"."""
    memory = PaperMeMo(50, 4096, 4, 1)
    memory.memorise(torch.arange(10))
    exact, partial = weights(memory, [2, 3, 4, 5]), weights(memory, [2, 3, 4, 10])
    assert float(exact[6]) == pytest.approx(1, abs=0.1)
    assert float(partial[6]) == pytest.approx(0.75, abs=0.1)
    assert int(exact.argmax()) == int(partial.argmax()) == 6


@each_stride
@each_kind
def test_the_papers_example_of_three_layers(codes: str, stride: int) -> None:
    memory = PaperMeMo(50, 2048, 2, 3, stride=stride, codes=codes)
    memory.memorise(torch.arange(1, 10))
    actual = weights(memory, list(range(1, 9)))
    assert int(actual.argmax()) == 9
    assert float(actual[9]) == pytest.approx(3, abs=0.3)
    composition = "retrieved" if codes == "retrieved" else "computed"
    ours = memory_of(dim=2048, heads=2, layers=3, stride=stride, composition=composition)
    ours.memorise([list(range(1, 10))])
    assert weights_after(ours, list(range(1, 9)))[9] == pytest.approx(float(actual[9]), abs=0.4)


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_a_pattern_enters_the_codes_once(repeats: int) -> None:
    """Neither repeats within an update nor a second update store it again, erase it or invert it."""
    memory = PaperMeMo(50, 2048, 2, 2, stride=2)
    text = torch.tensor([1, 2] * repeats)
    for _ in range(2):
        memory.memorise(text)
        keys, blocks, _ = memory._windows(torch.tensor([1, 2]))[0]
        code = blocks.flatten(1) @ memory.sequence_projections[0]
        assert float((keys @ memory.intermediate[0] * code).sum()) == pytest.approx(1, abs=0.25)


@each_stride
def test_forgetting_clears_the_last_matrix_only(stride: int) -> None:
    memory = PaperMeMo(50, 512, 2, 2, stride=stride)
    texts = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(0))
    memory.memorise(texts[0])
    before = memory.last.clone()
    memory.memorise(texts[1])
    codes = [matrix.clone() for matrix in memory.intermediate]
    memory.forget(texts[1])
    torch.testing.assert_close(memory.last, before, rtol=0, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(memory.intermediate, codes, strict=True))
    assert bool(codes[0].any())


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="stride is expected to be 1 or heads, 4, rather than 2"):
        PaperMeMo(50, 64, 4, 2, stride=2)
    with pytest.raises(ValueError, match="one of retrieved, projected, product rather than 'mixed'"):
        PaperMeMo(50, 64, 4, 2, codes="mixed")
