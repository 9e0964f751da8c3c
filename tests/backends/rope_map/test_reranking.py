"""Rereading: how likely a question is after each piece, against the model reading all of it as text; and what is gained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memagent.backends.rope_map import calibration
from memagent.backends.rope_map import reranking as rereading
from memagent.backends.rope_map.addressing import NEIGHBOURS, credited, gather
from memagent.backends.rope_map.reranking import CREDIT, LEAST, REACH, WEIGHT
from memagent.backends.shared.attention.encoder import Reader, Row
from memagent.backends.shared.attention.likelihood import likelihoods
from tests.backends.rope_map.conftest import MakeMap
from tests.backends.rope_map.facts import FACTS, QUESTION, scores
from tests.backends.rope_map.tiny import addressing, logits, tiny, tokens

OPENING = tokens(4, seed=1)
PIECES = [tokens(count, seed=10 + count) for count in (3, 11, 1, 7)]
ROW = Row(tokens(2, seed=2), tokens(6, seed=3))


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "qwen3"])
def test_a_text_is_as_likely_after_a_piece_as_if_the_piece_were_read_before_it(family: str) -> None:
    local = tiny(family)
    reader = Reader(local)
    opening = next(reader.read([Row([], OPENING)]))
    pieces = list(reader.read([Row(OPENING, piece) for piece in PIECES]))
    found = likelihoods(reader, opening, pieces, ROW)
    for piece, likely in zip(PIECES, found.tolist(), strict=True):
        before = [*OPENING, *piece, *ROW.before]
        told = logits(local.model, [*before, *ROW.ids]).float().log_softmax(-1)[len(before) - 1 : -1]
        expected = told.gather(1, torch.tensor(ROW.ids)[:, None]).sum()
        assert likely == pytest.approx(float(expected), abs=1e-3)
    assert len(set(found.tolist())) == len(PIECES)


def test_likelihoods_leave_the_model_as_it_was() -> None:
    local = tiny()
    reader = Reader(local)
    before = logits(local.model, ROW.ids)
    (piece,) = reader.read([Row([], PIECES[0])])
    likelihoods(reader, piece, [piece], ROW)
    assert torch.equal(logits(local.model, ROW.ids), before)
    assert local.model.config._attn_implementation == "sdpa"


def test_a_lift_is_told_against_no_piece_at_all() -> None:
    reader = Reader(tiny())
    opening = next(reader.read([Row([], OPENING)]))
    pieces = dict(zip((7, 3), reader.read([Row(OPENING, piece) for piece in PIECES[:2]]), strict=True))
    alone = logits(reader.model, [*OPENING, *ROW.before, *ROW.ids]).float().log_softmax(-1)[:-1]
    without = alone[-len(ROW.ids) :].gather(1, torch.tensor(ROW.ids)[:, None]).sum()
    after = likelihoods(reader, opening, list(pieces.values()), ROW)
    assert rereading.lifts(reader, opening, pieces, ROW) == pytest.approx(
        {7: float(after[0] - without), 3: float(after[1] - without)}, abs=1e-3
    )


def test_the_best_piece_gains_most_and_what_is_far_behind_it_nothing() -> None:
    gained = rereading.gains({7: -10.0, 3: 0.0, 9: -1.5, 1: -13.0})
    assert gained == pytest.approx(
        {7: WEIGHT * (REACH - 10), 3: WEIGHT * REACH, 9: WEIGHT * (REACH - 1.5), 1: 0}
    )


def test_what_is_gained_adds_to_what_addressing_found(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, alone = make_map(*FACTS), scores(make_map(*FACTS, reread=0))
    lifted: list[dict[int, float]] = []

    def remembered(*arguments: Any) -> dict[int, float]:
        lifted.append(rereading.lifts(*arguments))
        return lifted[-1]

    monkeypatch.setattr("memagent.backends.rope_map.search.lifts", remembered)
    found = scores(backend)
    assert sorted(lifted[0]) == list(range(len(FACTS)))
    shares = credited(rereading.gains(lifted[0]), backend._catalogue.around)
    for number, text in enumerate(FACTS):
        assert found[text] == pytest.approx(alone[text] + shares[number], rel=1e-5)


def test_an_abstaining_memory_finds_nothing_where_no_piece_lifts_the_question(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "calibrate", lambda *_: addressing(-1e9))
    for lift, expected in ((LEAST, True), (LEAST - 0.01, False)):
        lifted = dict.fromkeys(range(len(FACTS)), -1.0) | {4: lift}
        monkeypatch.setattr("memagent.backends.rope_map.search.lifts", lambda *_, its=lifted: its)
        assert bool(make_map(*FACTS, abstain=True).recall(QUESTION)) is expected
        assert len(scores(make_map(*FACTS))) == len(FACTS)


def test_what_lifts_the_question_makes_up_for_weak_addressing(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_map(*FACTS)
    search = backend._search
    known = backend._addressing
    found = search._index.find(
        next(backend._reader.ask([Row(*search._writer.question(QUESTION))], known.layers, known.depth))
    )
    above = gather(found, known.weights, backend._catalogue.around).above
    for lift, expected in ((11.01, True), (10.99, False)):
        monkeypatch.setattr("memagent.backends.rope_map.search.lifts", lambda *_, lift=lift: {0: lift})
        monkeypatch.setattr(calibration, "calibrate", lambda *_: addressing(above + CREDIT * (11 - LEAST)))
        assert bool(make_map(*FACTS, abstain=True).recall(QUESTION)) is expected


def test_so_many_pieces_are_reread_as_the_settings_say(make_map: MakeMap) -> None:
    everything, few = scores(make_map(*FACTS)), scores(make_map(*FACTS, reread=2))
    alone = scores(make_map(*FACTS, reread=0))
    best = sorted(alone, key=lambda text: -alone[text])[:2]
    assert {text for text in alone if few[text] > alone[text]} <= set(best)
    assert everything != few != alone


def test_neighbours_share_in_what_a_piece_is_credited_with() -> None:
    def around(piece: int, shift: int) -> int | None:
        return piece + shift if 0 <= piece + shift < 5 else None

    credit = credited({2: 10.0}, around, without={4})
    assert credit == {2 - shift: share * 10 for shift, share in NEIGHBOURS.items() if 2 - shift != 4}
