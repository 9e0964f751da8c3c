"""Damaged benchmark files: each is a dataset or an InputError."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.evaluation.datasets import LOADERS
from memagent.backends.errors import InputError
from tests.agent.evaluation.datasets.files import LOCOMO, LONGMEMEVAL
from tests.mutation import JSON_TOKENS, Mutator

MUTATIONS = 600


@pytest.mark.parametrize(("name", "records"), [("locomo", LOCOMO), ("longmemeval", LONGMEMEVAL)])
def test_a_mutated_file_is_a_dataset_or_an_input_error(
    tmp_path: Path, name: str, records: list[dict[str, Any]]
) -> None:
    originals = [json.dumps(records, ensure_ascii=False).encode(), json.dumps(records[:1], indent=1).encode()]
    mutator = Mutator(originals, seed=4, tokens=JSON_TOKENS)
    file = tmp_path / "x.json"
    good = 0
    for number in range(MUTATIONS):
        file.write_bytes(mutator.mutation(number))
        try:
            good += len(list(LOADERS[name](file))) > 0
        except InputError:
            continue
        except Exception as error:  # noqa: BLE001 - whatever it is, the number that shows it again is wanted
            pytest.fail(f"mutation {number} of seed 4: {type(error).__name__}: {error}")
    assert MUTATIONS // 20 < good < MUTATIONS // 2


def test_a_file_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(json.dumps(LOCOMO).encode().replace(b"Biscuit", b"Bisc\xed\xa0\x80"))
    with pytest.raises(InputError, match="is not valid UTF-8"):
        LOADERS["locomo"](file)


def test_a_pipe_and_a_device_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("fifo", "zero"):
        with pytest.raises(InputError, match="is not a regular file"):
            LOADERS["locomo"](tmp_path / name)
