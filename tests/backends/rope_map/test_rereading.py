"""Rereading: how likely a question is after each piece, against the model reading all of it as text; and what is gained."""

from __future__ import annotations

import pytest
import torch

from memagent.backends.attention.likelihood import likelihoods
from memagent.backends.attention.reader import Reader, Row
from memagent.backends.rope_map import rereading
from memagent.backends.rope_map.addressing import NEIGHBOURS, credited
from memagent.backends.rope_map.rereading import REACH, WEIGHT
from tests.backends.rope_map.conftest import MakeMap
from tests.backends.rope_map.facts import FACTS, scores
from tests.backends.rope_map.tiny import logits, tiny, tokens

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


def test_the_best_piece_gains_most_and_what_is_far_behind_it_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    likely = torch.tensor([-30.0, -20.0, -21.5, -33.0])
    monkeypatch.setattr(rereading, "likelihoods", lambda *_: likely)
    reader = Reader(tiny())
    (piece,) = reader.read([Row([], PIECES[0])])
    gained = rereading.gains(reader, piece, dict.fromkeys((7, 3, 9, 1), piece), ROW)
    assert gained == pytest.approx(
        {7: WEIGHT * (REACH - 10), 3: WEIGHT * REACH, 9: WEIGHT * (REACH - 1.5), 1: 0}
    )


def test_what_is_gained_adds_to_what_addressing_found(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, bare = make_map(*FACTS), make_map(*FACTS, reread=0)
    alone = scores(bare)
    tried: list[int] = []

    def gains(_reader: object, _opening: object, pieces: dict[int, object], _row: object) -> dict[int, float]:
        tried.extend(pieces)
        return {number: 100.0 if number == worst else 0.0 for number in pieces}

    worst = min(range(len(FACTS)), key=lambda number: alone[FACTS[number]])
    monkeypatch.setattr("memagent.backends.rope_map.backend.gains", gains)
    found = scores(backend)
    assert sorted(tried) == list(range(len(FACTS)))
    assert max(found, key=lambda text: found[text]) == FACTS[worst]
    shares = credited({worst: 100.0}, backend._catalogue.around)
    for number, text in enumerate(FACTS):
        assert found[text] == pytest.approx(alone[text] + shares.get(number, 0.0), rel=1e-5)


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
