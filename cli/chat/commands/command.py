"""What a slash command is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memagent.cli.chat.chat import Chat, Interface


@dataclass(frozen=True)
class Command:
    """A slash command.

    Attributes:
        name: with the slash.
        argument: what follows the name, for a person; empty: nothing.
        about: one sentence for /help.
        function: runs it with the text after the name.
        values: what the argument can be, for completion; None: anything.
    """

    name: str
    argument: str
    about: str
    function: Callable[[Chat, Interface, str], None]
    values: Callable[[Chat], Sequence[str]] | None = None

    @property
    def usage(self) -> str:
        """The name with its argument."""
        return f"{self.name} {self.argument}".strip()


class Quit(Exception):  # noqa: N818 - a request, not an error
    """The person asks to leave the chat."""
