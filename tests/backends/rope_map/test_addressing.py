"""Scores: masses and evidence against plain loops, neighbours in a dialogue, and the index of keys."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memagent.backends.errors import CheckpointError
from memagent.backends.rope_map.addressing import FLOOR, NEIGHBOURS, Found, Head, evidence, gather, mass
from memagent.backends.rope_map.chunk_table import Catalogue
from memagent.backends.rope_map.index import AddressIndex
from memagent.backends.rope_map.value_similarity import SHARPNESS
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.chunks import Writer
from memagent.backends.shared.attention.encoder import Asked
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.tiny import addressing, drawn, said, tiny, tokenizer


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


# masses and evidence


def test_masses_are_shares_of_one_softmax() -> None:
    scores, others = random(5, 12), random(5, 3, seed=1)
    owners = torch.arange(12).expand(5, -1) % 4
    found = mass(scores, owners, 4, others)
    for token in range(5):
        total = sum(math.exp(one) for one in [*scores[token].tolist(), *others[token].tolist()])
        for piece in range(4):
            own = [float(scores[token, key]) for key in range(12) if owners[token, key] == piece]
            assert float(found[token, piece]) == pytest.approx(sum(map(math.exp, own)) / total, rel=1e-5)
    assert (found.sum(1) < 1).all()


def test_missing_keys_pay_nothing_and_large_scores_do_not_overflow() -> None:
    scores = torch.tensor([[500.0, -math.inf, 499.0], [-math.inf] * 3])
    found = mass(scores, torch.tensor([[0, 1, 1], [0, 1, 1]]), 2, torch.tensor([[498.0], [1.0]]))
    whole = 1 + math.exp(-1) + math.exp(-2)
    torch.testing.assert_close(found[0], torch.tensor([1 / whole, math.exp(-1) / whole]))
    assert found[1].tolist() == [0.0, 0.0]


def test_evidence_is_what_telling_tokens_agree_on_and_what_the_best_token_says() -> None:
    stored, background = torch.rand(5, 3), torch.rand(5, 2)
    total = stored.sum(1, keepdim=True) + background.sum(1, keepdim=True)
    stored, background = stored / total, background / total
    counts = [
        math.exp(sum(share * math.log(share) for share in token))
        for token in torch.cat([stored, background], 1).tolist()
    ]
    usual = [sum(math.log(1 + one / FLOOR) for one in token) / 2 for token in background.tolist()]
    for masses, found in zip((stored, background), evidence(stored, background), strict=True):
        for piece in range(masses.shape[1]):
            logs = [math.log(1 + one / FLOOR) for one in masses[:, piece].tolist()]
            agreed = sum(count * log for count, log in zip(counts, logs, strict=True)) / sum(counts)
            assert float(found[piece, 0]) == pytest.approx(agreed, rel=1e-4)
            best = max(log - mean for log, mean in zip(logs, usual, strict=True))
            assert float(found[piece, 1]) == pytest.approx(max(0.0, best), rel=1e-3, abs=1e-5)


def test_a_token_that_picks_out_a_piece_counts_for_more_than_one_that_looks_everywhere() -> None:
    # The first token knows exactly; the others look everywhere, and a little more at another piece.
    stored = torch.tensor([[0.97, 0.01], [0.2, 0.3], [0.2, 0.3]])
    found, _ = evidence(stored, 1 - stored.sum(1, keepdim=True))
    assert found[0, 0] > found[1, 0]
    assert evidence(torch.zeros(3, 2), torch.ones(3, 1))[0].abs().max() == 0


# neighbours


def dialogue(*speakers: str, session: str = "monday", first: int = 1) -> Catalogue:
    catalogue = Catalogue(Writer(tokenizer()))
    catalogue.add(
        [said(first + place, f"Turn {place}.", session, speaker=who) for place, who in enumerate(speakers)]
    )
    return catalogue


def test_neighbours_are_found_only_where_the_speaker_changes() -> None:
    catalogue = dialogue("Ana", "Bob", "Bob", "Ana", "Bob")
    assert [catalogue.around(place, 1) for place in range(5)] == [1, None, 3, 4, None]
    assert [catalogue.around(place, -1) for place in range(5)] == [None, 0, None, 2, 3]
    assert [catalogue.around(place, -2) for place in range(5)] == [None, None, None, None, 2]
    assert [catalogue.around(place, 0) for place in range(5)] == [0, 1, 2, 3, 4]


def test_neighbours_are_of_one_session_and_roles_stand_for_missing_names() -> None:
    catalogue = Catalogue(Writer(tokenizer()))
    catalogue.add(
        [
            said(1, "One.", "monday"),
            said(2, "Other.", "tuesday", "assistant"),
            said(3, "Two.", "monday", "assistant"),
            said(4, "Three.", "monday", "assistant"),
        ]
    )
    assert catalogue.around(0, 1) == 2
    assert catalogue.around(1, 1) is catalogue.around(1, -1) is None
    assert catalogue.around(2, 1) is None


def test_pieces_of_one_turn_are_no_dialogue() -> None:
    catalogue = Catalogue(Writer(tokenizer()))
    catalogue.add([said(1, "word " * 400), said(2, "Short.", role="assistant")])
    last = len(catalogue) - 1
    assert last > 2
    assert catalogue.around(0, 1) is catalogue.around(1, -1) is None
    assert catalogue.around(last, -1) == last - 1


def test_a_forgotten_turn_leaves_its_neighbours_beside_each_other() -> None:
    catalogue = dialogue("Ana", "Bob", "Ana", "Cleo")
    assert [number for number, _ in catalogue.remove([3, 77])] == [2]
    assert catalogue.around(1, 1) == 3
    assert catalogue.numbers() == [0, 1, 3]
    assert catalogue.add([said(9, "New.")]) == [4]


def test_scores_are_gathered_from_a_piece_and_those_around_it() -> None:
    catalogue = dialogue("Ana", "Bob", "Bob", "Ana", "Bob", "Ana")
    weights, background = torch.tensor([1.0, 2.0]), torch.tensor([[0.1, 0.2], [0.3, 0.0]])
    seen = {0: 0.7, 2: 1.1, 3: 0.4, 5: 2.0}
    found = Found(list(seen), torch.tensor([[value, value] for value in seen.values()]), background)
    scores = gather(found, weights, catalogue.around)
    expected = {}
    for piece in range(6):
        shares = [
            share * 3 * seen[other]
            for shift, share in NEIGHBOURS.items()
            if (other := catalogue.around(piece, shift)) in seen and other is not None
        ]
        if shares:
            expected[piece] = sum(shares)
    assert scores.pieces == pytest.approx(expected)
    # By what Ana said before it, and not by Bob's own next words.
    assert scores.pieces[1] == pytest.approx(0.5 * 2.1)
    # The best piece alone, above the best of the background: 0.1 + 2 * 0.2.
    assert scores.above == pytest.approx(6.0 - 0.5)


def test_a_catalogue_comes_back_as_it_was(tmp_path: Path) -> None:
    catalogue = dialogue("Ana", "Bob", "Ana")
    catalogue.add([replace(said(8, "word " * 300, "x \u2028 y", "assistant"), in_view=(1, 2))])
    catalogue.remove([2])
    catalogue.save(tmp_path / "turns.jsonl")
    again = Catalogue(Writer(tokenizer()))
    again.load(tmp_path / "turns.jsonl")
    assert again.numbers() == catalogue.numbers()
    assert [again[number] for number in again.numbers()] == [
        catalogue[number] for number in catalogue.numbers()
    ]
    assert (again.turns, len(again)) == (catalogue.turns, len(catalogue))
    for damaged in ("{", "[]", '{"first": 0}', '{"seq": 1}'):
        (tmp_path / "turns.jsonl").write_text(damaged + "\n")
        with pytest.raises(CheckpointError, match="list of turns"):
            Catalogue(Writer(tokenizer())).load(tmp_path / "turns.jsonl")
    with pytest.raises(CheckpointError, match="list of turns"):
        Catalogue(Writer(tokenizer())).load(tmp_path / "none.jsonl")


# the index


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def index_of(*numbers: int) -> AddressIndex:
    index = AddressIndex(addressing(), rotary.frequencies(tiny().model), device="cpu")
    index.insert([(number, drawn(6 + number, seed=number)) for number in numbers])
    return index


def question(seed: int = 5) -> Asked:
    """Queries of the addressing layers and values, as of seven tokens."""
    return Asked(random(2, make.HEADS, 7, make.HEAD_DIM, seed=seed), drawn(7, seed=seed).values)


def naive(numbers: list[int], asked: Asked) -> tuple[Tensor, Tensor]:
    """Masses over everything, by one softmax for each head and token."""
    theta, known = rotary.frequencies(tiny().model), addressing()
    told, stored, background = [], [], []
    for head in known.heads:
        shared = head.head // known.group
        asking = rotary.rotate(
            asked.queries[known.layers.index(head.layer), head.head], torch.tensor(head.offset), theta
        )
        keys = [drawn(6 + number, seed=number).keys[:, head.layer, shared].float() for number in numbers]
        talk = known.background[head.layer, shared]
        told.append((asking @ torch.cat([*keys, talk]).T / make.HEAD_DIM**0.5).softmax(1))
    alike = [known.likeness(drawn(6 + number, seed=number).values).bfloat16().float() for number in numbers]
    cosines = known.likeness(asked.values) @ torch.cat([*alike, known.alike]).T
    told.append((SHARPNESS * cosines).softmax(1))
    for share in told:
        parts = share.split([*(6 + number for number in numbers), *[5] * 4], dim=1)
        sums = torch.stack([part.sum(1) for part in parts], 1)
        stored.append(sums[:, : len(numbers)])
        background.append(sums[:, len(numbers) :])
    both = [evidence(one, other) for one, other in zip(stored, background, strict=True)]
    return torch.stack([one for one, _ in both], -1).flatten(1), torch.stack(
        [one for _, one in both], -1
    ).flatten(1)


def test_the_index_finds_what_a_plain_softmax_over_everything_gives() -> None:
    asked = question()
    found = index_of(0, 2, 5, 9).find(asked)
    assert found.pieces == [0, 2, 5, 9]
    stored, background = naive([0, 2, 5, 9], asked)
    torch.testing.assert_close(found.evidence, stored, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.background, background, atol=1e-4, rtol=1e-4)


def test_a_piece_taken_out_of_the_index_is_found_no_more_and_no_part_of_it_is_stored() -> None:
    index, without = index_of(0, 2, 5, 9), index_of(0, 5, 9)
    index.delete([(2, 8)])
    assert index.find(question()).pieces == [0, 5, 9]
    torch.testing.assert_close(index.find(question()).evidence, without.find(question()).evidence)
    told = drawn(8, seed=2)
    everything = b"".join(raw(one) for one in index.state().values())
    assert raw(drawn(6, seed=0).keys[:, 0, 0]) in everything
    assert raw(told.keys[:, 0, 0]) not in everything
    assert raw(addressing().likeness(told.values).bfloat16()) not in everything
    index.delete([])
    index.insert([])


def test_an_empty_index_finds_nothing_but_the_background() -> None:
    found = index_of().find(question(0))
    assert found.pieces == []
    assert found.background.shape == (4, 8)
    scores = gather(found, addressing().weights, lambda piece, shift: None)
    assert scores.pieces == {}
    assert scores.above < 0


def test_an_index_restored_finds_the_same() -> None:
    index, again = index_of(0, 2), index_of()
    again.restore(index.state())
    assert torch.equal(again.find(question()).evidence, index.find(question()).evidence)
    assert again.bytes_in_memory == index.bytes_in_memory > 0


@pytest.mark.parametrize("change", ["another head", "a head missing", "a part missing", "no values"])
def test_the_state_of_another_index_is_refused(change: str) -> None:
    state = index_of(0, 2).state()
    if change == "another head":
        state = {name.replace("1:", "2:", 1): one for name, one in state.items()}
    elif change == "a head missing":
        state = {name: one for name, one in state.items() if not name.startswith("0:")}
    elif change == "no values":
        state = {name: one for name, one in state.items() if not name.startswith("alike")}
    else:
        del state["0:0.keys"]
    with pytest.raises(CheckpointError):
        index_of().restore(state)


def test_a_state_with_strange_names_is_refused() -> None:
    with pytest.raises(CheckpointError):
        index_of().restore({"strange": torch.zeros(1)})


def test_layers_and_key_heads_are_those_of_the_heads() -> None:
    known = addressing()
    assert known.layers == [0, 1]
    assert known.depth == 2
    assert [known.key_head(head) for head in known.heads] == [(0, 0), (1, 0), (1, 1)]
    assert known.key_head(Head(2, 3, 64)) == (2, 1)
