"""Damaged and generated scenario files: each is a scenario that can be played anywhere, or an InputError."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memagent.agent.evaluation.scenarios import read, suite
from memagent.agent.evaluation.scenarios.reader import FIELD_NAMES
from memagent.agent.evaluation.scenarios.runner import STEPS
from memagent.backends.errors import InputError
from tests.mutation import ODD_NUMBERS, ODD_TEXTS, YAML_TOKENS, Mutator

MUTATIONS = 2000
IN_A_FILE = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

odd_texts = st.sampled_from([*ODD_NUMBERS, *ODD_TEXTS, "3 weeks", "2026-01-05", "a", "(", "(a+)+$"])
scalars = odd_texts | st.text(max_size=8)
names = st.sampled_from(FIELD_NAMES) | st.sampled_from(["user", "assistant", "<<"]) | scalars
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
said = st.one_of(scalars, st.fixed_dictionaries({"assistant": values}), values)
matchers = st.one_of(
    scalars, st.lists(scalars, max_size=2), st.fixed_dictionaries({"contains": values}), values
)
expectations = st.one_of(
    st.fixed_dictionaries({"recalled": matchers}, optional={"at_most": scalars, "recall_seconds": scalars}),
    st.fixed_dictionaries({"reply": st.fixed_dictionaries({"matches": scalars})}),
    values,
)
steps = st.one_of(
    st.fixed_dictionaries({"ask": scalars, "expect": expectations}, optional={"limit": scalars}),
    st.fixed_dictionaries({"session": scalars, "say": st.lists(said, max_size=3)}),
    st.fixed_dictionaries(
        {"distractors": st.fixed_dictionaries({"count": scalars}, optional={"seed": scalars})}
    ),
    st.fixed_dictionaries({"wait": scalars}),
    values,
)
scenarios = st.one_of(
    st.fixed_dictionaries(
        {"name": scalars, "steps": st.lists(steps, max_size=4)}, optional={"start": scalars}
    ),
    values,
)


def check(file: Path) -> bool:
    """Read a file and return whether it holds scenarios.

    If it does, their steps must reach another process unchanged; if not, the error must name the file.
    """
    try:
        found = read(file)
    except InputError as error:
        message = str(error)
    else:
        for one in found:
            sent = json.dumps(STEPS.dump_python(list(one.scenario.steps), mode="json", exclude_defaults=True))
            assert STEPS.validate_python(json.loads(sent)) == list(one.scenario.steps)
        return True
    assert message.startswith(str(file))
    assert len(message) < 10_000
    return False


def documents() -> list[bytes]:
    """The shipped scenarios, each by itself: short, so that a mutation hits something."""
    return [
        document
        for file in suite()
        for document in re.split(rb"(?m)^---\n", file.read_bytes())
        if document.strip()
    ]


def test_a_mutated_scenario_file_is_a_scenario_or_an_input_error(tmp_path: Path) -> None:
    mutator = Mutator(documents(), seed=14, tokens=YAML_TOKENS)
    file = tmp_path / "a.recall.yaml"
    good = 0
    for number in range(MUTATIONS):
        file.write_bytes(mutator.mutation(number))
        try:
            good += check(file)
        except Exception as error:  # noqa: BLE001 - whatever it is, the number that shows it again is wanted
            pytest.fail(f"mutation {number} of seed 14: {type(error).__name__}: {error}")
    assert MUTATIONS // 20 < good < MUTATIONS // 2


@IN_A_FILE
@given(scenario=scenarios)
def test_any_values_in_any_fields_are_a_scenario_or_an_input_error(tmp_path: Path, scenario: object) -> None:
    file = tmp_path / "a.recall.yaml"
    # JSON is YAML; escapes of half characters are in it too.
    file.write_text(json.dumps(scenario), encoding="utf-8")
    check(file)


@IN_A_FILE
@given(
    raw=st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_a_scenario_or_an_input_error(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_bytes(raw)
    check(file)
