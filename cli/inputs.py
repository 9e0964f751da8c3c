"""Text that comes in from the command line or from standard input."""

from __future__ import annotations

import sys

from memagent.backends.errors import InputError


def require_utf8(text: str, what: str) -> str:
    """Return a command-line argument that is valid UTF-8.

    Args:
        text: the argument.
        what: names the argument in the message: "The query".

    Raises:
        InputError: it is not valid UTF-8; says at which byte.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid UTF-8 (byte {error.start}). Nothing was stored.") from error
    return text


def read_stdin() -> str:
    """Read all of standard input as UTF-8.

    Raises:
        InputError: it is not valid UTF-8; says at which line.
    """
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"Standard input, line {line}: byte {content[error.start]:#04x} is not valid UTF-8. Nothing was stored; "
            "convert it first, for instance with `iconv -f latin1 -t utf-8`."
        ) from error
