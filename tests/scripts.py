"""Scripts of the examples, run in this process: one of their own spends seconds on importing torch."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Finished:
    """How a script ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@contextmanager
def modules_of(folder: Path) -> Iterator[None]:
    """Let the modules of a folder be imported by their names alone, as a script in it imports them."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def imported(folder: Path, name: str) -> ModuleType:
    """Import a module of a folder by its name alone."""
    with modules_of(folder):
        return importlib.import_module(name)


def run_script(path: Path, *arguments: str) -> Finished:
    """Call ``main(arguments)`` of a script as the interpreter does: ``sys.exit(message)`` prints it and returns 1."""
    script = imported(path.parent, path.stem)
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with modules_of(path.parent), redirect_stdout(out), redirect_stderr(err):
        try:
            script.main(arguments)
        except SystemExit as ended:
            code = ended.code
            if isinstance(code, str):
                print(code, file=err)
    return Finished(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())
