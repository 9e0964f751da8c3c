"""A memory benchmark as cases with questions, whichever file it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ijson
from pydantic import BaseModel, ValidationError

from memagent.agent.journal.records import NewTurn
from memagent.backends.errors import InputError

_BOM = b"\xef\xbb\xbf"
Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class Question:
    """A question about one conversation.

    Attributes:
        id: unique in its case.
        category: as the benchmark names it.
        answerable: False if the conversation holds no answer, so that memory should abstain.
        turns: places of the turns that are evidence, counted from 0 over the whole case.
        sessions: names of the sessions that hold evidence; empty if unknown.
        answers: accepted answers.
    """

    id: str
    text: str
    category: str
    answerable: bool
    turns: frozenset[int]
    sessions: frozenset[str]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One conversation of several sessions, and the questions about it.

    Attributes:
        id: unique in the benchmark; the user whose journal it becomes.
        sessions: each with its turns, in order of time.
        questions: in the order of the file.
    """

    id: str
    sessions: tuple[tuple[NewTurn, ...], ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Dataset:
    """A benchmark file that was read and checked once.

    Attributes:
        name: ``locomo`` or ``longmemeval``.
        reported_categories: the categories whose ranking is reported as the result, as the table names them.
        sha256: of the file.
        cases, turns: how many.
        sessions: how many each case has.
        questions: each by case and id, in order.
    """

    name: str
    path: Path
    reported_categories: str
    sha256: str
    cases: int
    turns: int
    sessions: Mapping[str, int]
    questions: tuple[tuple[str, str], ...]
    parse: Callable[[Any, str], Case]

    def __iter__(self) -> Iterator[Case]:
        """Read the cases one at a time: a file may be larger than memory."""
        for number, raw in enumerate(_raw_records(self.path), start=1):
            yield self.parse(raw, f"{self.path}, record {number}")


def open_dataset(
    name: str, path: Path, reported_categories: str, parse: Callable[[Any, str], Case]
) -> Dataset:
    """Read a file once, so that every mistake in it is known before hours are spent.

    Args:
        name: of the benchmark.
        path: the file.
        reported_categories: what the table calls the categories that are reported.
        parse: makes a case of a raw record; its second argument names the record in messages.

    Raises:
        InputError: it cannot be read, is not the format, or is cut short; names the record.
    """
    turns = 0
    sessions: dict[str, int] = {}
    questions: list[tuple[str, str]] = []
    for number, raw in enumerate(_raw_records(path), start=1):
        case = parse(raw, f"{path}, record {number}")
        if case.id in sessions:
            raise InputError(f"{path}, record {number}: the id {case.id!r} was there before.")
        sessions[case.id] = len(case.sessions)
        turns += sum(map(len, case.sessions))
        questions += [(case.id, question.id) for question in case.questions]
    if not questions:
        raise InputError(f"{path} holds no questions: expected a list of {name} records.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Dataset(
        name, path, reported_categories, digest, len(sessions), turns, sessions, tuple(questions), parse
    )


def validate_record(record: type[Record], raw: Any, where: str) -> Record:
    """Return a raw record, checked against its format.

    Args:
        record: the format.
        raw: the record as JSON holds it.
        where: names the record in messages.

    Raises:
        InputError: with the place and what is wrong there.
    """
    try:
        return record.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{where}: {place}{': ' if place else ''}{first['msg'].removeprefix('Value error, ')}."
        ) from error


def _raw_records(path: Path) -> Iterator[Any]:
    """Yield a benchmark file's JSON records one at a time.

    Raises:
        InputError: it is no regular file, not a JSON list, cut short, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device may never end
            raise InputError(f"{path} is not a regular file; expected a benchmark as it is published.")
        with path.open("rb") as file:
            start = file.read(64)
            if start.removeprefix(_BOM).lstrip()[:1] != b"[":
                raise InputError(f"{path} is not a JSON list of records, as the benchmark is published.")
            file.seek(len(_BOM) if start.startswith(_BOM) else 0)
            yield from ijson.items(file, "item", use_float=True)
    except ijson.IncompleteJSONError as error:
        raise InputError(
            f"{path} is cut short or damaged: {str(error).splitlines()[0].strip()}. Fetch it again; nothing was measured."
        ) from error
    except ijson.JSONError as error:
        raise InputError(f"{path} is not JSON: {str(error).splitlines()[0].strip()}.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not valid UTF-8 ({error.reason}). Fetch it again; nothing was measured."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
