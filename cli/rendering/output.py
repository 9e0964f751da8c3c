"""Writing to standard output and standard error; unsafe characters are replaced or escaped here.

Nothing else in ``cli/`` prints. In text for people a visible dot replaces each unsafe character
(``backends.shared.text.UNSAFE``); in JSON they are escaped. ``cli.rendering.console`` does the same for tables and colours.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

import typer

from memagent.backends.errors import InputError, StorageError
from memagent.backends.shared.text import UNSAFE

BROKEN_PIPE = 141
"""The exit code where the reader of the output, such as ``head``, has gone."""


def printable(text: str) -> str:
    """Return a text of the same length without unsafe characters: they become dots; newlines and tabs stay."""
    return UNSAFE.sub("·", text)


def one_line(text: str) -> str:
    """Return a text of the same length on one line: unsafe characters become dots, newlines and tabs spaces."""
    return printable(text).replace("\n", " ").replace("\t", " ")


def indented(text: str, by: int = 2) -> str:
    """Return a printable text whose second and later lines are indented, so that none looks like a message of its own."""
    return printable(text).replace("\n", "\n" + " " * by)


def write(text: str = "", end: str = "\n") -> None:
    """Print a result, or a part of one, for people."""
    sys.stdout.write(printable(text) + end)
    sys.stdout.flush()


def say(message: str) -> None:
    """Print a message that is not the command's result, on standard error."""
    sys.stderr.write(indented(message) + "\n")
    sys.stderr.flush()


def as_json(value: object) -> None:
    """Print a result as JSON, for scripts."""
    from memagent.agent.fields import json_text

    sys.stdout.write(json_text(value, indent=2) + "\n")
    sys.stdout.flush()


def json_file() -> TextIO:
    """Return standard output as a file for JSON text; unsafe characters written to it are escaped."""
    return cast(TextIO, _JsonFile())


def confirm(question: str) -> bool:
    """Ask a yes-or-no question on standard error.

    Returns:
        True after "y" or "yes"; every other answer is no.

    Raises:
        typer.Abort: standard input has ended.
        InputError: the answer is not valid UTF-8.
    """
    sys.stderr.write(f"{one_line(question)} [y/N]: ")
    sys.stderr.flush()
    try:
        return is_yes(read_line())
    except EOFError as error:
        sys.stderr.write("\n")
        raise typer.Abort from error


def is_yes(answer: str) -> bool:
    """Return whether an answer is yes."""
    return answer.strip().lower() in ("y", "yes")


def read_line() -> str:
    """Read a line of standard input, without its line break.

    Raises:
        EOFError: standard input has ended.
        InputError: it is not valid UTF-8.
    """
    raw = sys.stdin.buffer.readline()
    if not raw:
        raise EOFError
    try:
        return raw.decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"The line is not valid UTF-8 at byte {error.start}; it was not used.") from error


def is_interactive() -> bool:
    """Return whether standard input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def has_screen() -> bool:
    """Return whether standard input and output are a terminal that can show a full-screen program."""
    return is_interactive() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def report_error(error: Exception) -> None:
    """Print an error meant for people."""
    say(f"Error: {error}")


def report_usage(error: Exception) -> None:
    """Print what is wrong with a command's arguments, and its usage.

    Args:
        error: a ``UsageError`` of click, or of the copy of it in newer versions of typer.
    """
    message: str = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if not message:  # the help was printed instead
        return
    if context is not None:
        say(context.get_usage())
        say(f"Try '{context.command_path} {context.help_option_names[0]}' for help.")
    say(f"Error: {message}")


def report_fault(error: Exception) -> None:
    """Print the traceback of an unexpected exception, and that it is a fault of memagent."""
    say("".join(traceback.format_exception(error)).rstrip())
    say("Error: This is a fault of memagent, not of yours. Please report it with the lines above.")


def prepare_streams() -> None:
    """Make the standard streams take any text, and report their failures as errors for people.

    Closed streams are replaced by the null device: the next file opened must not become standard output.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            null_device = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null_device, "r" if name == "stdin" else "w"))
        elif name != "stdin" and stream is getattr(sys, f"__{name}__"):  # not one that a test has put there
            setattr(sys, name, _Stream(stream, is_needed=name == "stdout"))


class _JsonFile(io.TextIOBase):
    def write(self, text: str) -> int:
        from memagent.agent.fields import escape_json

        return sys.stdout.write(escape_json(text))


class _Stream(io.TextIOWrapper):
    """A standard stream in UTF-8; what UTF-8 cannot hold is written with a backslash.

    Args:
        stream: the stream to replace.
        is_needed: whether a failure to write ends the command.
    """

    def __init__(self, stream: TextIO, *, is_needed: bool = True) -> None:
        super().__init__(
            stream.buffer, encoding="utf-8", errors="backslashreplace", line_buffering=stream.isatty()
        )
        self._is_needed = is_needed

    def write(self, text: str) -> int:
        with self._delivering():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._delivering():
            super().flush()

    @contextmanager
    def _delivering(self) -> Iterator[None]:
        """If writing fails, discard all later output; then end the command, unless the stream is not needed."""
        try:
            yield
        except OSError as error:
            # What is still buffered would be tried, and would fail, once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if not self._is_needed:
                return
            if isinstance(error, BrokenPipeError):
                raise SystemExit(BROKEN_PIPE) from None
            raise StorageError(f"The output cannot be written: {error.strerror}.") from error
