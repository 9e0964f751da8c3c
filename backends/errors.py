"""Every error a user can meet, in one tree.

    MemagentError
    ├── InputError          what was typed or imported cannot be used as it is
    ├── NotFoundError       a backend, model, session, turn or user by that name does not exist
    ├── SettingError        an option has a value it cannot take
    ├── BusyError           another process holds this user's memory
    ├── StorageError        the home folder or the journal cannot be read or written
    │   └── JournalDamagedError   the journal has lost turns that it once had
    ├── CheckpointError     a backend's stored state is missing, damaged or foreign: rebuild it
    ├── ModelError          a model cannot be fetched, verified, loaded or run
    └── MissingExtraError   an optional package is not installed

A message says what was expected, what came instead, and what to do. The command line prints it and
exits with code 1 (2 for a usage error).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from difflib import get_close_matches


class MemagentError(Exception):
    """Base of all errors raised on purpose by memagent."""


class InputError(MemagentError):
    """What was typed or imported cannot be used as it is; nothing was stored."""


class NotFoundError(MemagentError):
    """A named thing does not exist. The message lists near names, or all of them."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=3)
        if near:
            said = f"Did you mean {' or '.join(near)}?"
        elif names:
            said = f"Known: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}."
        else:
            said = "There is none yet."
        super().__init__(f"There is no {kind} {name!r}. {said}{' ' + hint if hint else ''}")


class SettingError(MemagentError):
    """An option has a value it cannot take; the message says which values it can."""


class BusyError(MemagentError):
    """Another process holds this user's memory; the message says which, and since when."""


class StorageError(MemagentError):
    """The home folder or the journal cannot be read or written (full disk, rights, newer schema)."""


class JournalDamagedError(StorageError):
    """The journal has lost turns that it once had; nothing is derived from it until the user decides.

    Args:
        message: what the journal has, and what says that it once had more.
        user: whose journal.
    """

    def __init__(self, message: str, user: str) -> None:
        name = shlex.quote(user)
        super().__init__(
            f"{message} Put a newer backup in its place, or, if there is none, go on with what is there: "
            f"memagent accept-loss --user {name}"
        )


class CheckpointError(MemagentError):
    """A backend's stored state is damaged or was made by something else. The journal can rebuild it."""


class ModelError(MemagentError):
    """A model cannot be fetched, verified, loaded or run."""


class MissingExtraError(MemagentError):
    """An optional package is not installed; the message holds the command that installs it."""

    def __init__(self, feature: str, package: str, extra: str = "") -> None:
        wanted = f"'memagent[{extra}]'" if extra else package
        super().__init__(f"{feature} needs the package {package}: pip install {wanted}")
