"""Reranking: log-likelihoods of a question after each chunk, against the model reading all of it as text; and bonuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memagent.backends.rope_map import calibration, reranking
from memagent.backends.rope_map.addressing import credit_neighbours, score_chunks
from memagent.backends.rope_map.tuning import DEFAULT_TUNING
from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.encoder import AttentionEncoder
from memagent.backends.shared.attention.likelihood import log_likelihoods
from tests.backends.rope_map.conftest import MakeMap
from tests.backends.rope_map.facts import FACTS, QUESTION, scores
from tests.backends.rope_map.tiny import FAMILIES, calibrated_heads, logits, tiny, tokens

OPENING = tokens(4, seed=1)
CHUNKS = [tokens(count, seed=10 + count) for count in (3, 11, 1, 7)]
TEXT = TokenSpan(tokens(2, seed=2), tokens(6, seed=3))
MIN_PMI = DEFAULT_TUNING.min_pmi


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_as_likely_after_a_chunk_as_if_the_chunk_were_read_before_it(family: str) -> None:
    local = tiny(family)
    encoder = AttentionEncoder(local)
    (opening,) = encoder.encode([TokenSpan([], OPENING)])
    chunks = list(encoder.encode([TokenSpan(OPENING, chunk) for chunk in CHUNKS]))
    results = log_likelihoods(encoder, opening, chunks, TEXT)
    for chunk, log_likelihood in zip(CHUNKS, results.tolist(), strict=True):
        prefix = [*OPENING, *chunk, *TEXT.prefix_ids]
        log_probabilities = logits(local.model, [*prefix, *TEXT.ids]).float().log_softmax(-1)
        own = log_probabilities[len(prefix) - 1 : -1].gather(1, torch.tensor(TEXT.ids)[:, None])
        assert log_likelihood == pytest.approx(float(own.sum()), abs=1e-3)
    assert len(set(results.tolist())) == len(CHUNKS)


def test_log_likelihoods_leave_the_model_unchanged() -> None:
    local = tiny()
    encoder = AttentionEncoder(local)
    before = logits(local.model, TEXT.ids)
    (chunk,) = encoder.encode([TokenSpan([], CHUNKS[0])])
    log_likelihoods(encoder, chunk, [chunk], TEXT)
    assert torch.equal(logits(local.model, TEXT.ids), before)
    assert local.model.config._attn_implementation == "sdpa"


def test_pmi_compares_with_no_chunk_at_all() -> None:
    encoder = AttentionEncoder(tiny())
    (opening,) = encoder.encode([TokenSpan([], OPENING)])
    encoded = encoder.encode([TokenSpan(OPENING, chunk) for chunk in CHUNKS[:2]])
    chunks = dict(zip((7, 3), encoded, strict=True))
    alone = logits(encoder.model, [*OPENING, *TEXT.prefix_ids, *TEXT.ids]).float().log_softmax(-1)[:-1]
    without = alone[-len(TEXT.ids) :].gather(1, torch.tensor(TEXT.ids)[:, None]).sum()
    after = log_likelihoods(encoder, opening, list(chunks.values()), TEXT)
    assert reranking.pmi(encoder, opening, chunks, TEXT) == pytest.approx(
        {7: float(after[0] - without), 3: float(after[1] - without)}, abs=1e-3
    )


def test_the_bonus_falls_from_the_highest_pmi_to_zero() -> None:
    bonus = reranking.rerank_bonus({7: -10.0, 3: 0.0, 9: -1.5, 1: -13.0}, DEFAULT_TUNING)
    most, weight = DEFAULT_TUNING.max_bonus, DEFAULT_TUNING.pmi_weight
    assert bonus == pytest.approx({7: most - 10 * weight, 3: most, 9: most - 1.5 * weight, 1: 0})
    assert reranking.rerank_bonus({}, DEFAULT_TUNING) == {}


def test_bonuses_add_to_the_addressing_scores(make_map: MakeMap, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, addressed = make_map(*FACTS), scores(make_map(*FACTS, rerank=0))
    pmi, results = reranking.pmi, []

    def recorded(*arguments: Any) -> dict[int, float]:
        results.append(pmi(*arguments))
        return results[-1]

    monkeypatch.setattr(reranking, "pmi", recorded)
    reranked = scores(backend)
    assert sorted(results[0]) == list(range(len(FACTS)))
    bonus = reranking.rerank_bonus(results[0], DEFAULT_TUNING)
    credited = credit_neighbours(bonus, backend._chunks.neighbour, DEFAULT_TUNING)
    for number, text in enumerate(FACTS):
        assert reranked[text] == pytest.approx(addressed[text] + credited[number], rel=1e-5)


def test_an_abstaining_memory_returns_nothing_if_no_chunk_reaches_the_least_pmi(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "calibrate", lambda *_: calibrated_heads(-1e9))
    for highest, expected in ((MIN_PMI, True), (MIN_PMI - 0.01, False)):
        pmi_by_chunk = dict.fromkeys(range(len(FACTS)), -1.0) | {4: highest}
        monkeypatch.setattr(reranking, "pmi", lambda *_, result=pmi_by_chunk: result)
        assert bool(make_map(*FACTS, abstain=True).recall(QUESTION)) is expected
        assert len(scores(make_map(*FACTS))) == len(FACTS)


def test_a_high_pmi_makes_up_for_a_small_lead_over_the_background(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_map(*FACTS)
    heads = backend._heads
    question = backend._tokenizer.question(QUESTION)
    (queries,) = backend._encoder.encode_queries([question], heads.query_layers, heads.num_layers)
    lead = score_chunks(backend._index.search(queries), heads, backend._chunks.neighbour).lead
    threshold = lead + DEFAULT_TUNING.pmi_relevance_weight * (11 - MIN_PMI)
    for highest, expected in ((11.01, True), (10.99, False)):
        monkeypatch.setattr(reranking, "pmi", lambda *_, highest=highest: {0: highest})
        monkeypatch.setattr(calibration, "calibrate", lambda *_: calibrated_heads(threshold))
        assert bool(make_map(*FACTS, abstain=True).recall(QUESTION)) is expected


def test_a_memory_with_no_relevant_chunk_at_all_returns_nothing(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "calibrate", lambda *_: calibrated_heads(-1e9))
    assert make_map(QUESTION, abstain=True).recall(QUESTION) == []


def test_as_many_chunks_are_reranked_as_the_settings_say(make_map: MakeMap) -> None:
    every, few = scores(make_map(*FACTS)), scores(make_map(*FACTS, rerank=2))
    addressed = scores(make_map(*FACTS, rerank=0))
    best = sorted(addressed, key=lambda text: -addressed[text])[:2]
    assert {text for text in addressed if few[text] > addressed[text]} <= set(best)
    assert every != few != addressed


def test_neighbours_share_a_chunks_score() -> None:
    def neighbour(number: int, shift: int) -> int | None:
        return number + shift if 0 <= number + shift < 5 else None

    credited = credit_neighbours({2: 10.0}, neighbour, DEFAULT_TUNING, excluded={4})
    expected = {2 - shift: share * 10 for shift, share in DEFAULT_TUNING.neighbour_credit if 2 - shift != 4}
    assert credited == expected
