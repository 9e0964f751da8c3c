"""The memory that recites: letter for letter, in a fixed size, and what it does with what contradicts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from memagent.backends.titans.associative_memory import Recital, words

SIZE = 64
TEXTS = [
    "My dog is called Biscuit.",
    "I grew up in Oamaru, so the smell of the sea makes me homesick!",
    "The code is 4471; don't tell.",
    "私は東京に住んでいます。",
    "x" * 60,
]


def addresses(count: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed)), dim=1)


def near(address: Tensor, cosine: float, seed: int = 5) -> Tensor:
    """Another address at this cosine."""
    other = addresses(1, seed)[0]
    across = normalize(other - (other @ address) * address, dim=0)
    found: Tensor = cosine * address + (1 - cosine**2) ** 0.5 * across
    return found


def memory(copies: int = 128, alpha: float = 0.0, seed: int = 0) -> Recital:
    return Recital(SIZE, copies, alpha, seed)


def told(texts: list[str], **settings: float) -> tuple[Recital, Tensor]:
    one, places = memory(**settings), addresses(len(texts))  # type: ignore[arg-type]
    for place, text in zip(places, texts, strict=True):
        one.write(place, text)
    return one, places


def said(one: Recital, address: Tensor) -> list[str]:
    return [text for text, _ in one.recite(address)]


@pytest.mark.parametrize(
    "text", [*TEXTS, "ha ha ha ha", "Two  spaces, a\nline.", "naïve café №5", "👍🏽 ok", "a"]
)
def test_words_are_the_text_again(text: str) -> None:
    assert "".join(words(f" {text}\n")) == text


@pytest.mark.parametrize("cosine", [1.0, 0.6])
def test_it_recites_letter_for_letter_and_matches_like_the_cosine(cosine: float) -> None:
    one, places = told(TEXTS)
    for place, text in zip(places, TEXTS, strict=True):
        best = one.recite(near(place, cosine))[0]
        assert best.text == text
        assert best.match == pytest.approx((3 * cosine + cosine**2) / 4, abs=0.15)


def test_a_word_said_over_and_over_is_learnt_without_harm() -> None:
    text = "no " * 60 + "yes"
    one, places = told([text, TEXTS[0]])
    for _ in range(20):
        one.write(places[0], text)
    assert one.tensors()["weights"].isfinite().all()
    assert one.recite(places[1])[0].text == TEXTS[0]
    # How often is more than three words can tell.
    assert said(one, places[0])[0].startswith("no no no")


@pytest.mark.parametrize("cosine", [0.2, 0.5, 0.9])
def test_keys_match_like_their_addresses_after_the_same_words_and_not_otherwise(cosine: float) -> None:
    one, a = memory(copies=512), addresses(1)[0]
    keys_a, keys_b = (
        one._keys(address, [("a", "b"), ("b", "a"), ("b",)]) for address in (a, near(a, cosine))
    )
    matches = keys_a @ keys_b.T
    assert torch.allclose(matches.diag(), torch.full((3,), (3 * cosine + cosine**2) / 4), atol=0.1)
    assert (matches - matches.diag().diag()).abs().max() < 0.03
    assert torch.allclose(keys_a.norm(dim=1), torch.ones(3))


def test_an_empty_memory_says_nothing_and_a_strange_address_little() -> None:
    assert memory().recite(addresses(1)[0]) == []
    one, places = told(TEXTS)
    stranger = addresses(1, seed=9)[0]
    stranger = normalize(stranger - places.T @ torch.linalg.pinv(places.T) @ stranger, dim=0)
    assert all(match < 0.35 for _, match in one.recite(stranger))


def test_what_is_told_again_surprises_little_and_what_contradicts_much() -> None:
    one, (place,) = memory(), addresses(1)
    first = one.write(place, "I live in Lisbon.")
    again = one.write(place, "I live in Lisbon.")
    other = one.write(place, "I live in Porto.")
    assert first.surprise == pytest.approx(1.0, abs=1e-5)
    assert first.strength == pytest.approx(1.0, abs=0.05)
    assert again.surprise < 0.05
    assert other.surprise > 0.2
    assert said(one, place)[0] == "I live in Porto."
    assert "I live in Lisbon." not in said(one, place)


def test_it_keeps_its_size_and_what_was_said_long_ago_fades_first() -> None:
    texts = [f"Number {place} is a {word} one." for place, word in enumerate(["red", "blue", "small"] * 100)]
    one, places = told(texts, copies=16)
    assert one.bytes == 16 * SIZE * 256 * 4
    known = [said(one, place)[:1] == [text] for place, text in zip(places, texts, strict=True)]
    assert sum(known[-20:]) > 15
    assert sum(known[:100]) < sum(known[-100:])


def test_its_gate_forgets() -> None:
    keeping, places = told(TEXTS)
    forgetting, _ = told(TEXTS, alpha=0.5)
    assert keeping.recite(places[0])[0].match > 0.8
    assert all(match < 0.35 for _, match in forgetting.recite(places[0]))
    assert forgetting.recite(places[-1])[0].text == TEXTS[-1]


def test_it_comes_back_and_goes_on_to_the_same_numbers() -> None:
    one, places = told(TEXTS[:3])
    again = memory()
    kept = {name: tensor.clone() for name, tensor in one.tensors().items()}
    again.restore(kept, list(one.vocabulary), list(one.openers))
    for each in (one, again):
        each.write(places[0], TEXTS[3])
    assert again.recite(places[0]) == one.recite(places[0]) != []
    assert torch.equal(again.tensors()["weights"], one.tensors()["weights"])
    with pytest.raises(ValueError, match="another shape"):
        memory(copies=2).restore(kept, [], [])


def test_another_seed_is_another_memory_and_the_same_the_same() -> None:
    weights = [told(TEXTS, seed=seed)[0].tensors()["weights"] for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
