"""Importing exports of other programs into a journal, as the command line does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.journal import Journal
from memagent.agent.journal.chat_exports import FORMATS, Options, Summary, convert
from memagent.agent.journal.export import ImportResult, load
from memagent.agent.journal.proof import Source


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    result: ImportResult
    summary: Summary


Import = Callable[..., Imported]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite3", "ana") as journal:
        yield journal


@pytest.fixture
def import_(journal: Journal, tmp_path: Path) -> Import:
    """Import as ``import_("chatgpt", content, roles=..., owner=..., title=...)``."""

    def run(format_: str, content: Any, **options: Any) -> Imported:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        with ExitStack() as stack:
            source = Source("export.json", BytesIO(raw))
            converted = stack.enter_context(convert(source, FORMATS[format_], tmp_path, Options(**options)))
            own, _ = stack.enter_context(converted.export(journal))
            return Imported(load(journal, own), converted.summary)

    return run
