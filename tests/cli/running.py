"""Running the whole program in this process, as a shell would, and seeing every byte that comes out."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from memagent.cli import main as command


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command: ``run("recall", "x", stdin=b"", terminal=False)``."""
    mask = os.umask(0o077)

    def run_(*arguments: str, stdin: bytes = b"", terminal: bool = False) -> Done:
        kind = _Terminal if terminal else io.TextIOWrapper
        out, err = io.BytesIO(), io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["memagent", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            for name, raw in (("stdout", out), ("stderr", err)):
                patch.setattr(sys, name, kind(raw, encoding="utf-8", errors="backslashreplace"))
            with pytest.raises(SystemExit) as ended:
                command.main()
            sys.stdout.flush()
            sys.stderr.flush()
            return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    yield run_
    os.umask(mask)
