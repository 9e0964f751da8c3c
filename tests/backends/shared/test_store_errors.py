"""Errors of storage libraries become StorageError; all others pass."""

from __future__ import annotations

import json
import sqlite3

import pytest

from memagent.backends.errors import CheckpointError, StorageError
from memagent.backends.shared.store_errors import comes_from, translate_errors


@translate_errors("rag", {"sqlite3"})
def fail(error: BaseException) -> None:
    raise error


def test_an_error_of_a_store_names_the_memory_and_what_to_do() -> None:
    with pytest.raises(StorageError, match=r"memory rag failed: locked\..*memagent backends rebuild rag"):
        fail(sqlite3.OperationalError("locked"))


@pytest.mark.parametrize("error", [CheckpointError("damaged"), ValueError("other"), KeyboardInterrupt()])
def test_other_errors_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        fail(error)
    assert raised.value is error


def test_an_error_comes_from_the_top_level_module_of_its_class() -> None:
    assert comes_from(sqlite3.OperationalError(), {"sqlite3"})
    assert comes_from(ModuleNotFoundError(), {"builtins"})
    assert not comes_from(ValueError(), {"sqlite3"})


@translate_errors("rag", {"json"})
def load(text: object) -> object:
    return json.loads(text)  # type: ignore[arg-type]


def test_an_error_of_any_class_that_the_library_raised_is_translated() -> None:
    """On a full disk, Chroma's client raises AttributeError while it is closed."""
    with pytest.raises(StorageError, match="must be str"):
        load(7)
