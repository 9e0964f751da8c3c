"""Scores of chunks: masses and evidence against plain loops, neighbours in a dialogue, and the index of keys."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memagent.backends.errors import CheckpointError
from memagent.backends.rope_map.addressing import (
    ChunkEvidence,
    QueryHead,
    attention_mass,
    head_evidence,
    score_chunks,
)
from memagent.backends.rope_map.chunk_table import ChunkTable
from memagent.backends.rope_map.index import AddressingIndex
from memagent.backends.rope_map.tuning import DEFAULT_TUNING
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.chunks import TurnTokenizer
from memagent.backends.shared.attention.encoder import AttentionEncoder, EncodedQueries
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.tiny import calibrated_heads, random_chunk, tiny, tokenizer
from tests.backends.turns import make_turn

FLOOR = DEFAULT_TUNING.mass_floor
THETA = AttentionEncoder(tiny()).theta


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


# masses and evidence


def test_masses_are_shares_of_one_softmax() -> None:
    scores, other_scores = random(5, 12), random(5, 3, seed=1)
    segment_ids = torch.arange(12).expand(5, -1) % 4
    masses = attention_mass(scores, segment_ids, 4, other_scores)
    for token in range(5):
        every = [*scores[token].tolist(), *other_scores[token].tolist()]
        total = sum(math.exp(score) for score in every)
        for segment in range(4):
            own = [float(scores[token, key]) for key in range(12) if segment_ids[token, key] == segment]
            assert float(masses[token, segment]) == pytest.approx(sum(map(math.exp, own)) / total, rel=1e-5)
    assert (masses.sum(1) < 1).all()


def test_missing_keys_receive_nothing_and_large_scores_do_not_overflow() -> None:
    scores = torch.tensor([[500.0, -math.inf, 499.0], [-math.inf] * 3])
    segment_ids = torch.tensor([[0, 1, 1], [0, 1, 1]])
    masses = attention_mass(scores, segment_ids, 2, torch.tensor([[498.0], [1.0]]))
    total = 1 + math.exp(-1) + math.exp(-2)
    torch.testing.assert_close(masses[0], torch.tensor([1 / total, math.exp(-1) / total]))
    assert masses[1].tolist() == [0.0, 0.0]


def test_evidence_is_the_agreement_of_sharp_tokens_and_the_best_token() -> None:
    stored, background = torch.rand(5, 3), torch.rand(5, 2)
    total = stored.sum(1, keepdim=True) + background.sum(1, keepdim=True)
    stored, background = stored / total, background / total
    token_weights = [
        math.exp(sum(share * math.log(share) for share in shares))
        for shares in torch.cat([stored, background], 1).tolist()
    ]
    means = [sum(math.log(1 + mass / FLOOR) for mass in masses) / 2 for masses in background.tolist()]
    both = head_evidence(stored, background, FLOOR)
    for masses, evidence in zip((stored, background), both, strict=True):
        for chunk in range(masses.shape[1]):
            logs = [math.log(1 + mass / FLOOR) for mass in masses[:, chunk].tolist()]
            weighted = sum(weight * value for weight, value in zip(token_weights, logs, strict=True))
            assert float(evidence[chunk, 0]) == pytest.approx(weighted / sum(token_weights), rel=1e-4)
            best = max(value - mean for value, mean in zip(logs, means, strict=True))
            assert float(evidence[chunk, 1]) == pytest.approx(max(0.0, best), rel=1e-3, abs=1e-5)


def test_a_token_that_selects_one_chunk_counts_for_more_than_one_that_attends_to_all() -> None:
    # The first token selects a chunk; the others attend to everything, and a little more to the other chunk.
    stored = torch.tensor([[0.97, 0.01], [0.2, 0.3], [0.2, 0.3]])
    evidence, _ = head_evidence(stored, 1 - stored.sum(1, keepdim=True), FLOOR)
    assert evidence[0, 0] > evidence[1, 0]
    assert head_evidence(torch.zeros(3, 2), torch.ones(3, 1), FLOOR)[0].abs().max() == 0


# neighbours


def dialogue(*speakers: str, session: str = "monday", first: int = 1) -> ChunkTable:
    table = ChunkTable(TurnTokenizer(tokenizer()))
    table.add(
        [
            make_turn(first + place, f"Turn {place}.", session=session, speaker=speaker)
            for place, speaker in enumerate(speakers)
        ]
    )
    return table


def test_neighbours_exist_only_where_the_speaker_changes() -> None:
    table = dialogue("Ana", "Bob", "Bob", "Ana", "Bob")
    assert [table.neighbour(number, 1) for number in range(5)] == [1, None, 3, 4, None]
    assert [table.neighbour(number, -1) for number in range(5)] == [None, 0, None, 2, 3]
    assert [table.neighbour(number, -2) for number in range(5)] == [None, None, None, None, 2]
    assert [table.neighbour(number, 0) for number in range(5)] == [0, 1, 2, 3, 4]


def test_neighbours_are_of_one_session_and_roles_stand_for_missing_names() -> None:
    table = ChunkTable(TurnTokenizer(tokenizer()))
    table.add(
        [
            make_turn(1, "One."),
            make_turn(2, "Other.", "assistant", "tuesday"),
            make_turn(3, "Two.", "assistant"),
            make_turn(4, "Three.", "assistant"),
        ]
    )
    assert table.neighbour(0, 1) == 2
    assert table.neighbour(1, 1) is table.neighbour(1, -1) is None
    assert table.neighbour(2, 1) is None


def test_chunks_of_one_turn_are_no_dialogue() -> None:
    table = ChunkTable(TurnTokenizer(tokenizer()))
    table.add([make_turn(1, "word " * 400), make_turn(2, "Short.", role="assistant")])
    last = len(table) - 1
    assert last > 2
    assert table.neighbour(0, 1) is table.neighbour(1, -1) is None
    assert table.neighbour(last, -1) == last - 1


def test_a_forgotten_turn_leaves_its_neighbours_beside_each_other() -> None:
    table = dialogue("Ana", "Bob", "Ana", "Cleo")
    assert [number for number, _ in table.remove([3, 77])] == [2]
    assert table.neighbour(1, 1) == 3
    assert table.numbers() == [0, 1, 3]
    assert table.add([make_turn(9, "New.")]) == [4]


def test_scores_add_up_a_chunks_own_evidence_and_its_neighbours() -> None:
    table = dialogue("Ana", "Bob", "Bob", "Ana", "Bob", "Ana")
    heads = replace(calibrated_heads(), weights=torch.tensor([1.0, 2.0]))
    own = {0: 0.7, 2: 1.1, 3: 0.4, 5: 2.0}
    background = torch.tensor([[0.1, 0.2], [0.3, 0.0]])
    evidence = ChunkEvidence(list(own), torch.tensor([[value, value] for value in own.values()]), background)
    chunks = score_chunks(evidence, heads, table.neighbour)
    expected = {}
    for chunk in range(6):
        shares = [
            share * 3 * own[other]
            for shift, share in DEFAULT_TUNING.neighbour_credit
            if (other := table.neighbour(chunk, shift)) in own and other is not None
        ]
        if shares:
            expected[chunk] = sum(shares)
    assert chunks.scores == pytest.approx(expected)
    # From Ana's turn before it, and not from Bob's own next turn.
    assert chunks.scores[1] == pytest.approx(0.5 * 2.1)
    # The best chunk alone, above the best of the background: 0.1 + 2 * 0.2.
    assert chunks.lead == pytest.approx(6.0 - 0.5)


def test_a_chunk_table_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    table = dialogue("Ana", "Bob", "Ana")
    table.add([replace(make_turn(8, "word " * 300, "assistant", "x \u2028 y"), in_view=(1, 2))])
    table.remove([2])
    table.save(tmp_path / "turns.jsonl")
    loaded = ChunkTable(TurnTokenizer(tokenizer()))
    loaded.load(tmp_path / "turns.jsonl")
    assert loaded.numbers() == table.numbers()
    assert [loaded[number] for number in loaded.numbers()] == [table[number] for number in table.numbers()]
    assert (loaded.num_turns, len(loaded)) == (table.num_turns, len(table))
    for damaged in ("{", "[]", '{"first": 0}', '{"seq": 1}'):
        (tmp_path / "turns.jsonl").write_text(damaged + "\n")
        with pytest.raises(CheckpointError, match="list of turns"):
            ChunkTable(TurnTokenizer(tokenizer())).load(tmp_path / "turns.jsonl")
    with pytest.raises(CheckpointError, match="list of turns"):
        ChunkTable(TurnTokenizer(tokenizer())).load(tmp_path / "none.jsonl")


# the index


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def index_of(*numbers: int) -> AddressingIndex:
    index = AddressingIndex(calibrated_heads(), THETA, device="cpu")
    index.insert([(number, random_chunk(6 + number, seed=number)) for number in numbers])
    return index


def question(seed: int = 5) -> EncodedQueries:
    """Queries of the calibrated heads' layers, and values, as of seven tokens."""
    queries = random(2, make.HEADS, 7, make.HEAD_DIM, seed=seed)
    return EncodedQueries(queries, random_chunk(7, seed=seed).values)


def naive_evidence(numbers: list[int], encoded: EncodedQueries) -> tuple[Tensor, Tensor]:
    """Evidence on stored chunks and background, by one softmax over everything for each head and token."""
    heads = calibrated_heads()
    chunks = [random_chunk(6 + number, seed=number) for number in numbers]
    attention = []
    for head in heads.query_heads:
        kv_head = head.head // heads.group_size
        unrotated = encoded.queries[heads.query_layers.index(head.layer), head.head]
        queries = rotary.rotate(unrotated, torch.tensor(head.offset), THETA)
        keys = [chunk.keys[:, head.layer, kv_head].float() for chunk in chunks]
        every_key = torch.cat([*keys, heads.background_keys[head.layer, kv_head]])
        attention.append((queries @ every_key.T / make.HEAD_DIM**0.5).softmax(1))
    embeddings = [heads.value_similarity.embed(chunk.values).bfloat16().float() for chunk in chunks]
    cosines = (
        heads.value_similarity.embed(encoded.values) @ torch.cat([*embeddings, heads.background_values]).T
    )
    attention.append((DEFAULT_TUNING.value_sharpness * cosines).softmax(1))
    evidence = []
    for shares in attention:
        parts = shares.split([*(6 + number for number in numbers), *[5] * 4], dim=1)
        masses = torch.stack([part.sum(1) for part in parts], 1)
        evidence.append(head_evidence(masses[:, : len(numbers)], masses[:, len(numbers) :], FLOOR))
    stored, background = zip(*evidence, strict=True)
    return torch.stack(stored, -1).flatten(1), torch.stack(background, -1).flatten(1)


def test_the_index_finds_the_evidence_of_a_plain_softmax_over_everything() -> None:
    result = index_of(0, 2, 5, 9).search(question())
    assert result.chunks == [0, 2, 5, 9]
    stored, background = naive_evidence([0, 2, 5, 9], question())
    torch.testing.assert_close(result.evidence, stored, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.background, background, atol=1e-4, rtol=1e-4)


def test_a_deleted_chunk_is_not_found_and_no_part_of_it_is_stored() -> None:
    index, without = index_of(0, 2, 5, 9), index_of(0, 5, 9)
    index.delete([(2, 8)])
    assert index.search(question()).chunks == [0, 5, 9]
    torch.testing.assert_close(index.search(question()).evidence, without.search(question()).evidence)
    deleted = random_chunk(8, seed=2)
    stored = b"".join(raw(tensor) for tensor in index.state().values())
    assert raw(random_chunk(6, seed=0).keys[:, 0, 0]) in stored
    assert raw(deleted.keys[:, 0, 0]) not in stored
    assert raw(calibrated_heads().value_similarity.embed(deleted.values).bfloat16()) not in stored
    index.delete([])
    index.insert([])


def test_an_empty_index_finds_nothing_but_the_background() -> None:
    result = index_of().search(question(0))
    assert result.chunks == []
    assert result.background.shape == (4, 8)
    chunks = score_chunks(result, calibrated_heads(), lambda number, shift: None)
    assert chunks.scores == {}
    assert chunks.lead < 0


def test_a_restored_index_finds_the_same() -> None:
    index, restored = index_of(0, 2), index_of()
    restored.restore(index.state())
    assert torch.equal(restored.search(question()).evidence, index.search(question()).evidence)
    assert restored.bytes_in_memory == index.bytes_in_memory > 0


@pytest.mark.parametrize("change", ["another head", "a head missing", "a part missing", "no values"])
def test_the_state_of_another_index_is_refused(change: str) -> None:
    state = index_of(0, 2).state()
    if change == "another head":
        state = {name.replace("1:", "2:", 1): tensor for name, tensor in state.items()}
    elif change == "a head missing":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("0:")}
    elif change == "no values":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("values")}
    else:
        del state["0:0.keys"]
    with pytest.raises(CheckpointError):
        index_of().restore(state)


def test_a_state_with_unknown_names_is_refused() -> None:
    with pytest.raises(CheckpointError):
        index_of().restore({"strange": torch.zeros(1)})


def test_layers_and_key_heads_are_those_of_the_heads() -> None:
    heads = calibrated_heads()
    assert heads.query_layers == [0, 1]
    assert heads.num_layers == 2
    assert [heads.key_head(head) for head in heads.query_heads] == [(0, 0), (1, 0), (1, 1)]
    assert heads.key_head(QueryHead(2, 3, 64)) == (2, 1)
