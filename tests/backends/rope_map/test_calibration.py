"""Learning a model's addressing: the material, the fit, and what is kept of it."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from memagent.backends.protocol import silent
from memagent.backends.rope_map import calibration, fitting
from memagent.backends.rope_map import calibration_data as generated
from memagent.backends.rope_map import head_selection as choosing
from memagent.backends.rope_map.addressing import Addressing
from memagent.backends.shared.attention.chunks import Writer
from memagent.backends.shared.attention.encoder import Reader
from tests.backends.rope_map.tiny import Tiny, addressing, tiny, tokenizer


def same(one: Addressing, other: Addressing) -> bool:
    return (
        (one.heads, one.group, one.threshold) == (other.heads, other.group, other.threshold)
        and one.likeness.heads == other.likeness.heads
        and torch.equal(one.likeness.mean, other.likeness.mean)
        and torch.equal(one.likeness.whitening, other.likeness.whitening)
        and torch.equal(one.alike, other.alike)
        and torch.equal(one.weights, other.weights)
        and torch.equal(one.owners, other.owners)
        and one.background.keys() == other.background.keys()
        and all(torch.equal(keys, other.background[key]) for key, keys in one.background.items())
    )


# generated conversations


def test_scenes_are_the_same_for_the_same_seed() -> None:
    assert list(generated.scenes(3, 0)) == list(generated.scenes(3, 0))
    assert list(generated.scenes(3, 0))[:2] == list(generated.scenes(2, 0))
    assert list(generated.scenes(1, 0)) != list(generated.scenes(1, 1))


def test_friends_are_called_by_name_and_users_are_not() -> None:
    friends, user = generated.scenes(2, 0)
    assert {turn.speaker is None for turn in friends.turns} == {False}
    assert {turn.speaker for turn in user.turns} == {None}
    assert [turn.seq for turn in user.turns] == list(range(1, len(user.turns) + 1))
    assert sum(one.answer is None for one in user.asked) == 24
    assert len(user.asked) > 100


def patterns(template: str, values: dict[str, list[str]]) -> list[tuple[str, dict[str, str]]]:
    """Every way to fill a template in, with what it was filled in with."""
    slots = [slot for slot in values if f"{{{slot}}}" in template]
    ways = [dict(zip(slots, chosen, strict=True)) for chosen in product(*(values[slot] for slot in slots))]
    return [(template.format(who="WHO", **way), way) for way in ways]


def test_the_named_turn_holds_the_values_of_the_fact_that_is_asked_for() -> None:
    material: dict[str, Any] = generated._material()
    asked_by: dict[str, int] = {}
    told_by: dict[str, tuple[int, dict[str, str]]] = {}
    for place, family in enumerate(material["facts"]):
        for kind in ("ask", "plain", "ask_about", "plain_about"):
            for template in family[kind]:
                asked_by |= {text: place for text, _ in patterns(template, family["values"])}
        answers = [*family["say"], *(answer for _, answer in family["exchange"])]
        for template in answers:
            told_by |= {text: (place, way) for text, way in patterns(template, family["values"])}
    for scene in generated.scenes(4, 0):
        names = "|".join({turn.speaker for turn in scene.turns if turn.speaker} or {"nobody at all"})
        for one in scene.asked:
            if one.answer is None:
                assert one.text not in {turn.text for turn in scene.turns}
                continue
            family, way = told_by[scene.turns[one.answer].text]
            assert way  # the turn names something that can be asked for
            asked = asked_by.get(one.text, asked_by.get(re.sub(rf"\b({names})\b", "WHO", one.text)))
            assert asked == family, one.text


def test_the_background_is_small_talk_that_no_remark_repeats() -> None:
    background = generated.background()
    assert len(background) == 160
    remarks = {one.text for scene in generated.scenes(4, 0) for one in scene.asked if one.answer is None}
    assert remarks
    assert not remarks & set(background)


# learning


@pytest.fixture(scope="module")
def learnt() -> Addressing:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_SCENES", 1)
        patch.setattr(fitting, "_STEPS", 5)
        patch.setattr(choosing, "HEADS", 3)
        patch.setattr(choosing, "VALUE_HEADS", 2)
        patch.setattr(choosing, "OFFSETS", (64, 256))
        patch.setattr(generated, "_FACTS", 8)
        return calibration.calibrate(Reader(tiny()), Writer(tokenizer()), 1, silent)


def test_heads_of_the_lower_half_are_chosen_with_their_offsets(learnt: Addressing) -> None:
    assert len(learnt.heads) == 3
    assert all(head.layer == 0 and head.head < 4 and head.offset in (64, 256) for head in learnt.heads)
    assert list(learnt.heads) == sorted(learnt.heads, key=lambda head: (head.layer, head.head))
    assert learnt.weights.shape == (8,)
    assert learnt.weights.isfinite().all()
    assert learnt.background.keys() == {learnt.key_head(head) for head in learnt.heads}
    assert all(len(keys) == len(learnt.owners) for keys in learnt.background.values())
    assert sorted(set(learnt.owners.tolist())) == list(range(160))


def test_heads_of_any_layer_are_chosen_for_their_values(learnt: Addressing) -> None:
    assert len(learnt.likeness.heads) == 2
    assert list(learnt.likeness.heads) == sorted(learnt.likeness.heads)
    assert set(learnt.likeness.heads) <= {(layer, head) for layer in range(3) for head in range(2)}
    assert learnt.alike.shape == (len(learnt.owners), 2 * 16)
    assert learnt.depth == max(1 + learnt.layers[-1], 1 + learnt.likeness.heads[-1][0])


def test_evidence_that_tells_gets_the_weight_and_remarks_stay_below() -> None:
    random = torch.Generator().manual_seed(3)
    bare = replace(addressing(), weights=torch.empty(0))
    examples = []
    for _ in range(4):
        evidence = torch.rand(40, 20, 8, generator=random)
        target = torch.zeros(40, 20)
        target[torch.arange(30), torch.randint(20, (30,), generator=random)] = 1  # the last ten are remarks
        evidence[:, :, 1] += 3 * target
        background = torch.rand(40, 4, 8, generator=random)
        examples.append(fitting.Example(evidence, evidence, background, target))
    fitted = fitting.fit(bare, examples)
    assert int(fitted.weights.argmax()) == 1
    assert (fitted.weights >= 0).all()
    below = total = 0
    for one in examples:
        scores, answered = one.evidence @ fitted.weights, one.target.sum(1) > 0
        assert (scores[answered].argmax(1) == one.target[answered].argmax(1)).float().mean() > 0.9
        above = scores.amax(1) - (one.background @ fitted.weights).amax(1)
        below += int((above[~answered] <= fitted.threshold + 1e-6).sum())
        total += int((~answered).sum())
    assert 0.55 <= below / total <= 0.65
    assert bare.weights.shape == (0,)


# keeping


def test_a_calibration_comes_back_as_it_was(tmp_path: Path) -> None:
    calibration.save(addressing(0.25), tmp_path / "derived" / "one.safetensors")
    found = calibration.load(tmp_path / "derived" / "one.safetensors")
    assert found is not None
    assert same(found, addressing(0.25))


def test_a_calibration_is_written_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "derived" / "one.safetensors"
    calibration.save(addressing(), path)
    calibration.save(addressing(0.5), path)
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
def test_a_calibration_that_cannot_be_read_is_none(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "one.safetensors"
    calibration.save(addressing(), path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[:-9], "garbage": b"?" * 999}.get(damage, content))
    if damage == "missing":
        path.unlink()
    assert calibration.load(path) is None


def test_a_calibration_is_named_by_what_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    local = tiny()
    names = [
        calibration.fingerprint(local, 2),
        calibration.fingerprint(local, 1),
        calibration.fingerprint(Tiny(local.name, "other weights", local.model, local.tokenizer), 2),
    ]
    assert calibration.fingerprint(Tiny("other name", local.digest, local.model, None), 2) == names[0]
    monkeypatch.setattr(choosing, "RECIPE", (13,))
    names.append(calibration.fingerprint(local, 2))
    assert len(set(names)) == 4
