"""The MeMo memory: the paper's examples, regeneration, exact forgetting, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from memagent.backends.neural.memo import MeMoSettings, explain, regenerate
from tests.backends.neural.memo.texts import (
    VOCABULARY,
    memory_of,
    random_codes,
    random_texts,
    state,
    weights_after,
)

WORDS = [
    "He",
    "enrolled",
    "in",
    "the",
    "mathematics",
    "and",
    "physics",
    "teaching",
    "diploma",
    "program",
    "or",
]
SENTENCE = list(range(10))
each_composition = pytest.mark.parametrize("composition", ["bound", "computed", "retrieved"])


def prompt(words: str) -> list[int]:
    return [WORDS.index(word) for word in words.split()]


def test_the_papers_example_of_one_layer() -> None:
    memory = memory_of(dim=2048, layers=1, composition="computed")
    memory.memorise([SENTENCE])
    physics = WORDS.index("physics")
    exact = weights_after(memory, prompt("in the mathematics and"))
    partial = weights_after(memory, prompt("in the mathematics or"))
    assert exact[physics] == pytest.approx(1, abs=0.1)
    assert partial[physics] == pytest.approx(0.75, abs=0.1)
    assert max(exact, key=exact.__getitem__) == max(partial, key=partial.__getitem__) == physics
    assert [
        vote.matched for vote in explain(memory, [*prompt("in the mathematics or"), physics])[4].votes
    ] == [3]


@pytest.mark.parametrize("stride", [1, 2])
@each_composition
def test_the_papers_example_of_three_layers(composition: str, stride: int) -> None:
    memory = memory_of(dim=2048, heads=2, layers=3, stride=stride, composition=composition)
    memory.memorise([list(range(1, 10))])
    weights = weights_after(memory, list(range(1, 9)))
    assert max(weights, key=weights.__getitem__) == 9
    assert weights[9] == pytest.approx(3, abs=0.3)


def test_the_papers_stride_stores_the_windows_of_its_example() -> None:
    """Layer 1 has 12-3 34-5 56-7 78-9, layer 2 1234-5 5678-9, layer 3 12345678-9."""
    memory = memory_of(heads=2, layers=3, stride=2, composition="retrieved")
    memory.memorise([list(range(1, 10))])
    #                              pairs     codes  tokens
    assert memory.totals.tolist() == [4, 2, 1, 4, 2, 4]


def test_weights_count_partial_matches() -> None:
    """Of 1000 y, three windows share two, one and no token with the question: 2/4 + 1/4 + 0/4."""
    memory = memory_of(dim=2048, layers=1, composition="computed")
    memory.memorise([[1, 2, 3, 4, 1000], [1, 2, 13, 14, 1000], [21, 22, 23, 4, 1000], [31, 32, 33, 34, 1000]])
    assert weights_after(memory, [1, 2, 3, 5])[1000] == pytest.approx(0.75 + 0.5 + 0 + 0, abs=0.15)
    assert weights_after(memory, [1, 2, 3, 4])[1000] == pytest.approx(1 + 0.5 + 0.25 + 0, abs=0.15)


def test_a_pair_is_stored_once_however_often_it_occurs() -> None:
    memory = memory_of(dim=2048, layers=1)
    memory.memorise([SENTENCE] * 3)
    weights = weights_after(memory, prompt("in the mathematics and"))
    assert weights[WORDS.index("physics")] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("composition", "dim"), [("bound", 512), ("computed", 1024), ("retrieved", 1024)])
def test_a_hundred_texts_are_regenerated_from_their_first_tokens(composition: str, dim: int) -> None:
    memory, texts = memory_of(dim=dim, composition=composition), random_texts(100, 25)
    memory.memorise(texts)
    results = regenerate(memory, [text[:4] for text in texts], limit=21, end=-1)
    assert [result.ids for result in results] == [text[4:] for text in texts]
    assert not any(result.finished for result in results)


@each_composition
def test_half_of_a_hundred_texts_are_forgotten_exactly(composition: str) -> None:
    """Some share parts, one is stored twice; the state is that of a memory that never read what was forgotten."""
    texts = random_texts(100, 25)
    texts[7], texts[8] = texts[3], texts[3][5:20] + texts[4][:10]
    memory = memory_of(dim=256, composition=composition)
    memory.memorise(texts)
    rng = random.Random(1)
    forgotten = rng.sample(range(100), 50)
    for number in forgotten[:30]:
        memory.forget([texts[number]])
    memory.forget([texts[number] for number in forgotten[30:]])
    kept = [number for number in range(100) if number not in forgotten]
    expected = memory_of(dim=256, composition=composition)
    for number in rng.sample(kept, len(kept)):
        expected.memorise([texts[number]])
    assert state(memory) == state(expected)
    assert memory.tokens == expected.tokens
    assert memory.pairs == expected.pairs


def test_nothing_of_forgotten_texts_is_left_and_the_others_are_unchanged() -> None:
    memory, texts = memory_of(), random_texts(100, 25)
    memory.memorise(texts)
    memory.forget(texts[::2])
    prompts = [text[:4] for text in texts]
    results = regenerate(memory, prompts, limit=21)
    assert [result.ids for result in results[1::2]] == [text[4:] for text in texts[1::2]]
    assert min(result.confidence for result in results[1::2]) > 0.99
    assert max(result.confidence for result in results[::2]) < 0.99
    # What was stored has a weight of 2, one for each layer; what was forgotten has none.
    gone = [sum(entry.weight for entry in explain(memory, text)[4:]) / 21 for text in texts[::2]]
    assert max(map(abs, gone)) < 0.2
    memory.forget(texts[1::2])
    assert state(memory) == state(memory_of())


def test_texts_are_regenerated_from_their_codes() -> None:
    """All texts begin and end alike, and one repeats a window: codes and longer windows tell them apart."""
    end = VOCABULARY - 1
    texts = [[1, 2, 3, 4, *text, end] for text in random_texts(40, 12, vocabulary=end)]
    texts[0] = [1, 2, 3, 4, 5, 1, 2, 3, 4, 6, end]
    codes = random_codes(41)
    memory = memory_of()
    memory.memorise(texts, codes[:40])
    results = regenerate(memory, [[]] * 41, codes, limit=30, end=end)
    assert [result.ids for result in results[:40]] == texts
    assert all(result.finished for result in results[:40])
    assert min(result.confidence for result in results[:40]) > 0.99
    assert results[40].confidence < 0.9
    noisy = codes[:40].clone()
    noisy[:, ::10] *= -1
    assert [result.ids for result in regenerate(memory, [[]] * 40, noisy, limit=30, end=end)] == texts
    memory.forget(texts[:20], codes[:20])
    expected = memory_of()
    expected.memorise(texts[20:], codes[20:40])
    assert state(memory) == state(expected)


def test_frequent_tokens_do_not_drown_rare_ones() -> None:
    """A third of all tokens is the same; its cross-talk is that of any other."""
    memory, rng = memory_of(), random.Random(2)
    texts = [[7 if rng.random() < 1 / 3 else token for token in text] for text in random_texts(100, 20)]
    codes = random_codes(100)
    memory.memorise(texts, codes)
    results = regenerate(memory, [[]] * 100, codes, limit=20)
    assert [result.ids for result in results] == texts


@each_composition
def test_the_state_does_not_depend_on_how_texts_are_grouped(
    composition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, codes = random_texts(9, 40), random_codes(9, 64)
    together = memory_of(dim=64, composition=composition)
    together.memorise(texts, codes)
    monkeypatch.setattr("memagent.backends.neural.memo.memory._TOKENS", 7)
    alone = memory_of(dim=64, composition=composition)
    for number in (3, 1, 2, 0, 8, 7, 6, 5, 4):
        alone.memorise([texts[number]], codes[number, None])
    assert state(together) == state(alone)


@pytest.mark.parametrize("stride", [1, 2])
@each_composition
def test_any_history_leaves_the_state_of_the_texts_that_are_kept(composition: str, stride: int) -> None:
    """Short texts of three tokens share most of their windows, within a text too; some have a code."""
    rng, codes = random.Random(stride), random_codes(2, 16)
    for _ in range(10):
        sizes = {"dim": 16, "heads": 2, "layers": 2, "stride": stride, "composition": composition}
        memory, expected = memory_of(**sizes), memory_of(**sizes)
        kept: list[tuple[list[int], int | None]] = []
        for _ in range(25):
            if kept and rng.random() < 0.45:
                text, own = kept.pop(rng.randrange(len(kept)))
                memory.forget([text], None if own is None else codes[own, None])
            else:
                text, own = [rng.randrange(3) for _ in range(rng.randrange(9))], rng.choice([None, 0, 1])
                kept.append((text, own))
                memory.memorise([text], None if own is None else codes[own, None])
        for text, own in rng.sample(kept, len(kept)):
            expected.memorise([text], None if own is None else codes[own, None])
        assert state(memory) == state(expected)
        assert memory.tokens == expected.tokens


def test_an_edit_is_forgetting_and_memorising() -> None:
    memory, texts = memory_of(), random_texts(3, 20)
    memory.memorise(texts)
    edited = memory.edit(texts[1], texts[1][5:8], [1, 2])
    assert edited == texts[1][:5] + [1, 2] + texts[1][8:]
    expected = memory_of()
    expected.memorise([texts[0], edited, texts[2]])
    assert state(memory) == state(expected)
    before = state(memory)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: memory.edit(edited, [VOCABULARY - 1] * 3, [1]), "to be replaced, .* expected to occur"),
        (lambda: memory.edit(edited, [], [1]), "expected to occur"),
        (lambda: memory.edit(edited, edited[:2], [VOCABULARY]), "token ids are expected to be 0 to"),
        (lambda: memory.edit(texts[1], texts[1][5:8], [1]), "expected to be stored"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
    assert state(memory) == before


def test_what_is_not_stored_cannot_be_forgotten() -> None:
    memory, texts, codes = memory_of(), random_texts(3, 20), random_codes(1)
    memory.memorise(texts[:2])
    before = state(memory)
    for wrong, own in (
        ([texts[2]], None),
        ([texts[0]] * 2, None),
        ([texts[0]], codes),
        ([texts[0][:-1], texts[2]], None),
    ):
        with pytest.raises(ValueError, match="nothing was forgotten"):
            memory.forget(wrong, own)
    assert state(memory) == before


def test_invalid_texts_and_codes_are_refused() -> None:
    memory = memory_of()
    for text in ([1, -1], [VOCABULARY], [2**40]):
        with pytest.raises(ValueError, match="token ids are expected to be 0 to 4999 rather than"):
            memory.memorise([text])
    for codes, message in (
        (random_codes(2), r"int8 \[1, 512\] rather than torch.int8 \[2, 512\]"),
        (random_codes(1).float(), "rather than torch.float32"),
        (random_codes(1) * 0, r"consist of \+1 and -1"),
    ):
        with pytest.raises(ValueError, match=message):
            memory.memorise([[1, 2, 3]], codes)
    assert state(memory) == state(memory_of())


def test_a_full_matrix_is_refused_before_it_overflows() -> None:
    memory = memory_of()
    memory.totals[0] = 2**31 - 5
    with pytest.raises(OverflowError, match=r"2\^31 - 1 pairs .* Nothing was stored"):
        memory.memorise(random_texts(1, 20))
    assert not memory.last.any()
    assert memory.pairs == 2**31 - 5


def test_empty_texts_and_memories() -> None:
    memory = memory_of()
    memory.memorise([])
    memory.memorise([[]])
    assert state(memory) == state(memory_of())
    assert memory.predicted_accuracy == 1
    assert memory.load == 0
    assert regenerate(memory, [[1, 2, 3, 4]], limit=5)[0].ids == []
    assert explain(memory, []) == []
    concatenated = memory_of(composition="computed")
    concatenated.memorise([[1, 2, 3, 4], [1, 2, 3, 4, 5]])
    assert concatenated.pairs == 1
    assert regenerate(concatenated, [[1, 2, 3]], limit=5)[0].ids == []


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    texts = random_texts(3, 20)
    states = []
    for seed, order in ((5, texts), (5, texts[::-1]), (6, texts)):
        memory = memory_of(seed=seed)
        memory.memorise(order)
        states.append(state(memory))
    assert states[0] == states[1]
    assert states[0]["last"] != states[2]["last"]
    assert states[0]["hashes"] != states[2]["hashes"]


def test_only_tokens_that_were_read_cost_memory() -> None:
    memory = memory_of(vocab_size=10**9 // 8, dim=64)
    memory.memorise([[10**8, 5, 10**8, 7]])
    assert memory._vectors.drawn == 3 + memory.settings.window


def test_the_state_has_no_token() -> None:
    """Neither ids nor codes are stored, only hashes of them."""
    memory = memory_of(dim=64)
    memory.memorise([[4321] * 30])
    stored = state(memory)
    assert set(stored) == {"last", "intermediate", "totals", "hashes", "counts"}
    for size in (2, 4, 8):
        assert all(
            (4321).to_bytes(size, "little") not in value for name, value in stored.items() if name != "last"
        )


def test_an_explanation_names_layers_weights_and_lengths() -> None:
    memory, text = memory_of(dim=2048, heads=2, layers=3), list(range(1, 13))
    memory.memorise([text])
    last = explain(memory, text)[-1]
    assert last.token == 12
    assert [(vote.layer, vote.matched) for vote in last.votes] == [(1, 2), (2, 4), (3, 8)]
    assert last.weight == pytest.approx(3, abs=0.3)
    # After other tokens, only the short windows are known.
    other = explain(memory, [*[50] * 7, 10, 11, 12])[-1]
    assert [(vote.layer, vote.matched) for vote in other.votes] == [(1, 2), (2, 0), (3, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 60}, "dim is expected to be a multiple of 8 and of heads, 4, rather than 60"),
        ({"heads": 1}, "heads is expected to be at least 2"),
        ({"layers": 0}, "layers is expected to be at least 1"),
        ({"stride": 3}, "stride is expected to divide heads, 4, rather than be 3"),
        ({"composition": "mixed"}, "composition is expected to be one of bound, computed, retrieved"),
        ({"dim": 64, "layers": 4}, "the longest window, is expected to be at most dim, 64, rather than 256"),
        ({"seed": -1}, "seed is expected to be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory_of(**options)


def test_a_memory_moves_and_copies_as_a_module() -> None:
    memory = memory_of(dim=64)
    memory.memorise(random_texts(2, 20))
    assert memory.to(torch.device("cpu")) is memory
    assert memory.settings == MeMoSettings(VOCABULARY, 64)
