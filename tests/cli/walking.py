"""Every command of the command line with arguments that work, found by walking the application."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
import typer.main

from memagent.backends.errors import MemagentError
from memagent.cli.main import app
from tests.agent.evaluation.datasets.files import LOCOMO, write
from tests.agent.evaluation.scenarios import scenario_file

# What keeps a command from asking, loading weights or waiting for input, where it has such an option.
_OPTIONS = {
    "--model": "echo",
    "--backend": "in_memory",
    "--yes": None,
    "--prompt": "What is my dog called?",
    "--host": "192.0.2.1",  # a server ends at once: this address is for documentation, and there is no key
}
_SCENARIO = """
    name: a dog
    steps:
      - session: monday
        say: My dog is called Biscuit.
      - ask: What is my dog called?
        expect: {recalled: Biscuit, reply: Biscuit}
"""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        path: its words after ``memagent``.
        options: by their first long name, with the type of a value.
        arguments: names and types of the positional ones.
    """

    path: tuple[str, ...]
    options: dict[str, type]
    arguments: dict[str, type]

    def line(self, folder: Path, *more: str) -> list[str]:
        """A command line that works for a user ``default`` who has said something in the session ``notes``.

        Args:
            folder: where files that it reads or writes may lie.
            more: put behind; an option here is not given twice.
        """
        words = list(self.path)
        for option, value in _OPTIONS.items():
            if option in self.options and option not in more:
                words += [option] if value is None else [option, value]
        words += more
        for name, kind in self.arguments.items():
            words.append(self._argument(name, kind, folder))
        return words

    def _argument(self, name: str, kind: type, folder: Path) -> str:
        if issubclass(kind, Enum):
            return str(next(iter(kind)).value)
        if self.path[0] == "bench":
            return str(write(folder / "locomo.json", LOCOMO))
        if self.path[0] == "scenario":
            return str(scenario_file(folder, _SCENARIO))
        if name == "file":
            return str(folder / "file")
        return {"sessions": "notes", "backends": "in_memory"}.get(self.path[0], "a word")


def commands() -> list[Command]:
    """All commands, those of groups too."""
    return [_command(path, callback) for path, callback in _callbacks(app, ())]


def ended_well(result: Any) -> bool:
    """Whether a command ended as a person can understand: with a result, a clear error, or a usage error."""
    expected = result.exception is None or isinstance(result.exception, (SystemExit, MemagentError))
    return expected and result.exit_code in (0, 1, 2)


def _callbacks(
    group: typer.Typer, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    for command in group.registered_commands:
        callback = command.callback
        assert callback is not None
        yield (*path, command.name or callback.__name__), callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _callbacks(inner.typer_instance, (*path, str(inner.name)))


def _command(path: tuple[str, ...], callback: Callable[..., Any]) -> Command:
    tree: Any = typer.main.get_command(app)
    for word in path:
        tree = tree.commands[word]
    opts = {
        parameter.name: [word for word in parameter.opts if word.startswith("--")]
        for parameter in tree.params
    }
    hints = get_type_hints(callback)
    options: dict[str, type] = {}
    arguments: dict[str, type] = {}
    for name in inspect.signature(callback).parameters:
        if opts.get(name):
            options[opts[name][0]] = _bare(hints[name])
        else:
            arguments[name] = _bare(hints[name])
    return Command(path, options, arguments)


def _bare(hint: Any) -> type:
    """The type of one value: of ``list[int] | None`` it is int."""
    while inner := [one for one in get_args(hint) if one is not type(None)]:
        hint = inner[0]
    kind: type = hint
    return kind
