"""A program in a pseudo-terminal: type into it, read its screen, resize it, kill it."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from fcntl import ioctl
from types import TracebackType
from typing import Self

import pyte

SECONDS = 60.0
"""How long something is waited for; machines may be busy."""


class Terminal:
    """A program that runs in a terminal of its own, as a person would use it.

    Args:
        command: the program and its arguments.
        environment: added to this process's environment.
        size: columns and rows.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], size: tuple[int, int] = (100, 30)
    ) -> None:
        self.screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self._end, inner = pty.openpty()
        self.resize(*size)
        self.settings = termios.tcgetattr(inner)
        self.process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            # Without the size of another terminal, which Textual would take for this one's.
            env={
                **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
                "TERM": "xterm-256color",
                **environment,
            },
            start_new_session=True,
        )
        self._inner = inner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._end)
        os.close(self._inner)

    def type(self, text: str) -> None:
        """Type a text; ``\\r`` is Enter, ``\\x1b`` Esc, ``\\x03`` Ctrl+C."""
        os.write(self._end, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)
        if hasattr(self, "process"):
            os.killpg(self.process.pid, signal.SIGWINCH)

    def read(self, seconds: float) -> None:
        """Read what the program prints, for at most so many seconds."""
        ready, _, _ = select.select([self._end], [], [], seconds)
        if ready:
            data = os.read(self._end, 65536)
            self.output += data
            self._stream.feed(data)

    def text(self) -> str:
        """Return what the screen shows, one line for each row."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait_for(self, condition: str | Callable[[], object], seconds: float = SECONDS) -> float:
        """Wait until the screen shows a text, or until a condition holds.

        Returns:
            How long it took, in seconds.
        """
        began = time.monotonic()
        while not (condition in self.text() if isinstance(condition, str) else condition()):
            assert time.monotonic() < began + seconds, f"{condition!r} did not come:\n{self.text()}"
            self.read(0.02)
        return time.monotonic() - began

    def wait(self) -> int:
        """Wait until the program has ended; return its exit code."""
        self.wait_for(lambda: self.process.poll() is not None)
        self.read(0.2)
        return self.process.returncode

    def is_restored(self) -> bool:
        """Return whether the terminal is as it was before the program, and shows the ordinary screen."""
        left = self.output.rfind(b"\x1b[?1049l") > self.output.rfind(b"\x1b[?1049h")
        return left and termios.tcgetattr(self._inner) == self.settings


def memagent(*arguments: str) -> list[str]:
    """Return the command line of memagent with these arguments."""
    return [sys.executable, "-m", "memagent.cli.main", *arguments]
