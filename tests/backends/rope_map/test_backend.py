"""The RoPE memory map as a whole, in tiny random models: what it recalls, attends to, refuses and counts."""

from __future__ import annotations

import math

import pytest
import torch

from memagent.backends.errors import SettingError
from memagent.backends.picture import Grid, Table
from memagent.backends.rope_map import calibration
from memagent.backends.shared.attention.quantization import Precision
from tests.backends.rope_map import tiny as make
from tests.backends.rope_map.conftest import MakeMap
from tests.backends.rope_map.facts import FACTS, PROMPT, QUESTION, by_turn, scores
from tests.backends.rope_map.tiny import logits, tiny
from tests.backends.turns import make_turn

# recalling


def test_at_most_limit_turns_are_recalled_best_first_and_each_once(make_map: MakeMap) -> None:
    backend = make_map(*FACTS, "A long story. " * 100)
    for limit in (1, 2, 5, 50):
        items = backend.recall(QUESTION, limit=limit)
        assert len(items) == min(limit, 7)
        assert [item.score for item in items] == sorted((item.score for item in items), reverse=True)
        assert len({item.seqs for item in items}) == len(items)
    assert all("3 " in item.why and item.why.endswith(".") for item in items)


def test_an_abstaining_memory_returns_what_is_near_the_best_if_that_is_above_the_threshold(
    make_map: MakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = scores(make_map(*FACTS, rerank=0))
    best = max(everything.values())
    for threshold, expected in (
        (1e9, set()),
        (-1e9, {text for text in everything if everything[text] >= best - 3}),
    ):
        monkeypatch.setattr(calibration, "calibrate", lambda *_, at=threshold: make.calibrated_heads(at))
        backend = make_map(*FACTS, abstain=True, rerank=0)
        assert set(scores(backend)) == expected
        with backend.attached(tiny(), QUESTION) as attachment:
            assert {item.text for item in attachment.hits} <= expected


def test_an_empty_memory_and_an_empty_question_recall_nothing(make_map: MakeMap) -> None:
    empty = make_map()
    assert empty.recall(QUESTION) == []
    before = logits(tiny().model, PROMPT)
    with empty.attached(tiny(), QUESTION) as attachment:
        assert attachment.hits == []
        assert torch.equal(logits(tiny().model, PROMPT), before)


def test_turns_given_twice_are_stored_once(make_map: MakeMap) -> None:
    backend = make_map(*FACTS)
    before, stats = by_turn(backend), backend.stats()
    backend.remember([make_turn(seq, text) for seq, text in enumerate(FACTS, start=1)])
    assert by_turn(backend) == before
    assert backend.stats() == stats


# attaching


@pytest.mark.parametrize("settings", [{}, {"placement": "fixed"}, {"mode": "token"}, {"chunks": 1}], ids=str)
def test_attached_memory_changes_the_models_logits_only_while_it_is_attached(
    make_map: MakeMap, settings: dict[str, str]
) -> None:
    backend, local = make_map(*FACTS, **settings), tiny()
    before = logits(local.model, PROMPT)
    with backend.attached(local, QUESTION) as attachment:
        inside = logits(local.model, PROMPT)
    assert not torch.equal(inside, before)
    assert torch.equal(logits(local.model, PROMPT), before)
    # Mode token attends to whatever is stored.
    shown = 0 if settings.get("mode") == "token" else int(settings.get("chunks", 3))
    assert attachment.hits == backend.recall(QUESTION)[:shown]
    assert attachment.seqs >= {seq for item in attachment.hits for seq in item.seqs}
    if not shown:
        assert attachment.seqs == set(range(1, len(FACTS) + 1))
    with pytest.raises(ZeroDivisionError), backend.attached(local, QUESTION):
        raise ZeroDivisionError
    assert torch.equal(logits(local.model, PROMPT), before)


@pytest.mark.parametrize("mode", ["chunk", "token"])
def test_excluded_turns_are_not_attended_to(make_map: MakeMap, mode: str) -> None:
    backend, local = make_map(*FACTS, mode=mode, context=0), tiny()
    with backend.attached(local, QUESTION) as everything:
        pass
    best = max(everything.seqs)
    with backend.attached(local, QUESTION, exclude=[best]) as rest:
        pass
    assert best not in rest.seqs
    assert rest.seqs
    with backend.attached(local, QUESTION, exclude=range(1, 99)) as none:
        assert torch.equal(logits(local.model, PROMPT), logits(tiny().model, PROMPT))
    assert (none.hits, none.seqs) == ([], frozenset())


def test_the_context_of_an_attended_chunk_counts_as_seen(make_map: MakeMap) -> None:
    backend, local = make_map(*FACTS, chunks=1, context=2), tiny()
    with backend.attached(local, QUESTION) as attachment:
        pass
    (seq,) = attachment.hits[0].seqs
    assert attachment.seqs == {other for other in (seq - 2, seq - 1, seq) if other > 0}


def test_chunks_with_lower_scores_weigh_less_but_never_nothing(make_map: MakeMap) -> None:
    weights = make_map()._log_weights([2.0, 1.9, -50.0])
    assert weights == pytest.approx([0.0, -0.4, math.log(0.2)])


def test_another_model_is_refused_with_both_names(make_map: MakeMap) -> None:
    backend, other = make_map(*FACTS), tiny("llama", 1)
    with (
        pytest.raises(SettingError, match="tiny-llama-0; tiny-llama-1.*rebuild rope_map"),
        backend.attached(other, QUESTION),
    ):
        pass
    assert other.model.config._attn_implementation == "sdpa"


# figures


@pytest.mark.parametrize(("precision", "codes"), [("bf16", 384), ("int8", 192 + 12), ("int4", 96 + 12)])
def test_stats_tell_the_bytes_of_a_token(make_map: MakeMap, precision: Precision, codes: int) -> None:
    """3 layers, 2 key heads of 16 components, keys and values; a scale of 2 bytes for each token's values."""
    stats = make_map(*FACTS, "A long story, told at length. " * 100, precision=precision).stats()
    assert stats.items == 7
    assert stats.tokens > 500
    assert stats.extras["chunks"] > 7  # type: ignore[operator]
    assert codes <= stats.extras["page_bytes_per_token"] < codes * 1.1 + 8  # type: ignore[operator]
    both = stats.extras["page_bytes_per_token"] + stats.extras["index_bytes_per_token"]  # type: ignore[operator]
    assert both == pytest.approx(stats.bytes_on_disk / stats.tokens, abs=1)
    assert stats.bytes_in_memory >= stats.tokens * (3 + 2) * 16 * 2
    assert (stats.extras["precision"], stats.extras["model"]) == (precision, "tiny-llama-0")
    assert stats.extras["query_heads"] == "(0,1)@64 (1,0)@128 (1,3)@256"
    assert stats.extras["value_heads"] == "(0,1) (1,0)"
    assert make_map().stats().extras["page_bytes_per_token"] == 0


def test_the_same_question_asked_before_is_not_recalled(make_map: MakeMap) -> None:
    backend, without = make_map(*FACTS, QUESTION), make_map(*FACTS)
    seq = len(FACTS) + 1
    assert seq in {item.seqs[0] for item in backend.recall("Tell me: " + QUESTION, limit=9)}
    items = backend.recall(QUESTION.upper().replace("?", " ?!"), limit=9)
    assert seq not in {item.seqs[0] for item in items}
    assert len(items) == len(without.recall(QUESTION, limit=9))


def test_a_picture_of_a_recall_shows_what_each_head_adds(make_map: MakeMap) -> None:
    memory = make_map("My dog is called Biscuit.", "I live in Lisbon.")
    table, grid = memory.picture_of_recall("What is my dog called?")
    assert isinstance(table, Table)
    assert isinstance(grid, Grid)
    heads = make.calibrated_heads()
    assert len(grid.row_labels) == len(heads.query_heads) + 1
    assert {label.partition(":")[0] for label in grid.column_labels} == {"turn 1", "turn 2"}
    evidence = memory._search.evidence("What is my dog called?")
    assert evidence is not None
    totals = sorted((evidence.evidence @ heads.weights).tolist(), reverse=True)
    assert [sum(column) for column in zip(*grid.values, strict=True)] == pytest.approx(totals, abs=1e-4)
    assert len(make_map().picture_of_recall("Hello?")) == 1
