"""Calibrating a model's heads: the generated dialogues, the selection, the fit, and the stored file."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest
import torch

from memagent.backends.protocol import silent
from memagent.backends.rope_map import calibration, calibration_data, fitting
from memagent.backends.rope_map.addressing import CalibratedHeads
from memagent.backends.rope_map.calibration_data import Dialogue, dialogues
from memagent.backends.rope_map.tuning import DEFAULT_TUNING, Tuning
from memagent.backends.shared.attention.chunks import TurnTokenizer
from memagent.backends.shared.attention.encoder import AttentionEncoder
from tests.backends.rope_map.tiny import Tiny, calibrated_heads, tiny, tokenizer


def same(heads: CalibratedHeads, other: CalibratedHeads) -> bool:
    return (
        (heads.query_heads, heads.group_size, heads.threshold)
        == (other.query_heads, other.group_size, other.threshold)
        and heads.tuning == other.tuning
        and heads.value_similarity.heads == other.value_similarity.heads
        and torch.equal(heads.value_similarity.mean, other.value_similarity.mean)
        and torch.equal(heads.value_similarity.whitening, other.value_similarity.whitening)
        and torch.equal(heads.weights, other.weights)
        and torch.equal(heads.background_values, other.background_values)
        and torch.equal(heads.background_segment_ids, other.background_segment_ids)
        and heads.background_keys.keys() == other.background_keys.keys()
        and all(torch.equal(keys, other.background_keys[key]) for key, keys in heads.background_keys.items())
    )


# generated dialogues


def generate(count: int, seed: int = 0) -> list[Dialogue]:
    return list(dialogues(Tuning(num_dialogues=count, seed=seed)))


def test_dialogues_are_the_same_for_the_same_seed() -> None:
    assert generate(3) == generate(3)
    assert generate(3)[:2] == generate(2)
    assert generate(1) != generate(1, seed=1)


def test_friends_have_names_and_users_have_none() -> None:
    friends, user = generate(2)
    assert {turn.speaker is None for turn in friends.turns} == {False}
    assert {turn.speaker for turn in user.turns} == {None}
    assert [turn.seq for turn in user.turns] == list(range(1, len(user.turns) + 1))
    assert sum(question.answer is None for question in user.questions) == 24
    assert len(user.questions) > 100


def fillings(template: str, values: dict[str, list[str]]) -> list[tuple[str, dict[str, str]]]:
    """Return every way to fill a template, each with the values in it."""
    slots = [slot for slot in values if f"{{{slot}}}" in template]
    choices = [dict(zip(slots, chosen, strict=True)) for chosen in product(*(values[slot] for slot in slots))]
    return [(template.format(who="WHO", **choice), choice) for choice in choices]


def test_the_answering_turn_holds_the_values_of_the_fact_in_question() -> None:
    family_of_question: dict[str, int] = {}
    family_of_answer: dict[str, tuple[int, dict[str, str]]] = {}
    for place, family in enumerate(calibration_data.load_material()["facts"]):
        for kind in ("ask", "plain", "ask_about", "plain_about"):
            for template in family[kind]:
                family_of_question |= {text: place for text, _ in fillings(template, family["values"])}
        for template in (*family["say"], *(answer for _, answer in family["exchange"])):
            family_of_answer |= {
                text: (place, values) for text, values in fillings(template, family["values"])
            }
    for dialogue in generate(4):
        texts = {turn.text for turn in dialogue.turns}
        names = "|".join({turn.speaker for turn in dialogue.turns if turn.speaker} or {"nobody at all"})
        for question in dialogue.questions:
            if question.answer is None:
                assert question.text not in texts
                continue
            answer_family, values = family_of_answer[dialogue.turns[question.answer].text]
            assert values  # the turn holds a value that a question can ask for
            without_name = re.sub(rf"\b({names})\b", "WHO", question.text)
            question_family = family_of_question.get(question.text, family_of_question.get(without_name))
            assert question_family == answer_family, question.text


def test_the_background_is_small_talk_that_no_remark_repeats() -> None:
    background = calibration_data.small_talk(DEFAULT_TUNING)
    assert len(background) == 160
    questions = [question for dialogue in generate(4) for question in dialogue.questions]
    remarks = {question.text for question in questions if question.answer is None}
    assert remarks
    assert not remarks & set(background)


# calibrating


@pytest.fixture(scope="module")
def calibrated() -> CalibratedHeads:
    """The heads of a tiny model, by a calibration with few questions and few candidates."""
    tuning = Tuning(
        num_dialogues=1,
        facts_per_dialogue=8,
        num_query_heads=3,
        num_value_heads=2,
        offsets=(64, 256),
        fit_steps=5,
    )
    return calibration.calibrate(AttentionEncoder(tiny()), TurnTokenizer(tokenizer()), 1, silent, tuning)


def test_query_heads_of_the_lower_half_are_selected_with_their_offsets(calibrated: CalibratedHeads) -> None:
    heads = calibrated.query_heads
    assert len(heads) == 3
    assert all(head.layer == 0 and head.head < 4 and head.offset in (64, 256) for head in heads)
    assert list(heads) == sorted(heads, key=lambda head: (head.layer, head.head))
    assert calibrated.weights.shape == (8,)
    assert calibrated.weights.isfinite().all()
    assert calibrated.background_keys.keys() == {calibrated.key_head(head) for head in heads}
    segment_ids = calibrated.background_segment_ids
    assert all(len(keys) == len(segment_ids) for keys in calibrated.background_keys.values())
    assert sorted(set(segment_ids.tolist())) == list(range(160))


def test_value_heads_of_any_layer_are_selected(calibrated: CalibratedHeads) -> None:
    heads = calibrated.value_similarity.heads
    assert len(heads) == 2
    assert list(heads) == sorted(heads)
    assert set(heads) <= {(layer, head) for layer in range(3) for head in range(2)}
    assert calibrated.background_values.shape == (len(calibrated.background_segment_ids), 2 * 16)
    assert calibrated.num_layers == max(1 + calibrated.query_layers[-1], 1 + heads[-1][0])


def test_telling_evidence_gets_the_weight_and_remarks_stay_below_the_threshold() -> None:
    random = torch.Generator().manual_seed(3)
    unfitted = replace(calibrated_heads(), weights=torch.empty(0))
    examples = []
    for _ in range(4):
        evidence = torch.rand(40, 20, 8, generator=random)
        targets = torch.zeros(40, 20)
        targets[torch.arange(30), torch.randint(20, (30,), generator=random)] = 1  # the last ten are remarks
        evidence[:, :, 1] += 3 * targets
        background = torch.rand(40, 4, 8, generator=random)
        examples.append(fitting.Example(evidence, evidence, background, targets))
    fitted = fitting.fit(unfitted, examples)
    assert int(fitted.weights.argmax()) == 1
    assert (fitted.weights >= 0).all()
    refused = total = 0
    for example in examples:
        scores, answered = example.evidence @ fitted.weights, example.is_answered
        assert (scores[answered].argmax(1) == example.targets[answered].argmax(1)).float().mean() > 0.9
        leads = scores.amax(1) - (example.background @ fitted.weights).amax(1)
        refused += int((leads[~answered] <= fitted.threshold + 1e-6).sum())
        total += int((~answered).sum())
    assert 0.55 <= refused / total <= 0.65
    assert unfitted.weights.shape == (0,)


# storing


def test_calibrated_heads_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    path = tmp_path / "derived" / "heads.safetensors"
    calibration.save(calibrated_heads(0.25), path)
    loaded = calibration.load(path)
    assert loaded is not None
    assert same(loaded, calibrated_heads(0.25))


def test_a_calibration_is_written_as_a_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "derived" / "heads.safetensors"
    calibration.save(calibrated_heads(), path)
    calibration.save(calibrated_heads(0.5), path)
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
def test_a_missing_or_damaged_calibration_is_none(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "heads.safetensors"
    calibration.save(calibrated_heads(), path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[:-9], "garbage": b"?" * 999}.get(damage, content))
    if damage == "missing":
        path.unlink()
    assert calibration.load(path) is None


def test_the_fingerprint_depends_on_model_context_and_every_constant() -> None:
    local = tiny()
    names = [
        calibration.fingerprint(local, 2),
        calibration.fingerprint(local, 1),
        calibration.fingerprint(Tiny(local.name, "other weights", local.model, local.tokenizer), 2),
        *(
            calibration.fingerprint(local, 2, replace(DEFAULT_TUNING, **{field.name: ()}))  # type: ignore[arg-type]
            for field in fields(Tuning)
        ),
    ]
    assert calibration.fingerprint(Tiny("other name", local.digest, local.model, None), 2) == names[0]
    assert len(set(names)) == len(names)
