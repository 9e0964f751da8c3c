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
    """A named thing does not exist. The message lists near names, or all of them, but never the name itself."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        all_names = set(known)
        names = sorted(all_names - {name})
        near = get_close_matches(name, names, n=3)
        if near:
            known_names = f"Did you mean {' or '.join(map(in_a_line, near))}?"
        elif names:
            known_names = (
                f"Known: {', '.join(map(in_a_line, names[:20]))}{', ...' if len(names) > 20 else ''}."
            )
        else:
            known_names = "There is no other." if all_names else "There is none yet."
        super().__init__(f"There is no {kind} {name!r}. {known_names}{' ' + hint if hint else ''}")


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
    """A package is not installed; the message holds the command that installs it.

    Args:
        feature: what needs it.
        module: the module that could not be imported. Its package may have another name (yaml is of PyYAML), so
            what is installed is an extra or a distribution, and with it all that it declares to need.
        extra: the extra of memagent that brings it.
        distribution: what declares to need it; empty if unknown.
    """

    def __init__(self, feature: str, module: str, extra: str = "", distribution: str = "memagent") -> None:
        if extra:
            advice = f"`pip install 'memagent[{extra}]'` installs it"
        elif distribution:
            advice = f"`pip install {distribution}` installs what it needs"
        else:
            advice = "install the package that provides it"
        super().__init__(f"{feature} needs the Python module {module}, which is not installed: {advice}.")


def in_a_line(name: str) -> str:
    """Return a name as a sentence can hold it: as it is, or quoted with escapes if it would not print on one line."""
    return name if name.isprintable() else repr(name)
