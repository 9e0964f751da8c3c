"""All errors that memagent raises for users, in one hierarchy.

    MemagentError
    ├── InputError          an input or an imported file cannot be used
    ├── NotFoundError       no backend, model, session, turn or user has that name
    ├── SettingError        an option has an invalid value
    ├── BusyError           another process uses this user's memory
    ├── StorageError        the home folder or the journal cannot be read or written
    │   └── JournalDamagedError   the journal has lost turns
    ├── CheckpointError     a backend's stored state is missing, damaged or foreign: rebuild it
    ├── ModelError          a model cannot be fetched, verified, loaded or run
    └── MissingExtraError   an optional package is not installed

A message says what happened, what was expected, and what to do. The command line prints the message and
exits with code 1, or with code 2 for a usage error.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from difflib import get_close_matches


class MemagentError(Exception):
    """Base class of the errors that memagent raises on purpose."""


class InputError(MemagentError):
    """An input or an imported file cannot be used. Nothing was stored."""


class NotFoundError(MemagentError):
    """A named thing does not exist. The message suggests similar names, or lists the known names.

    Args:
        kind: what the name names, such as ``backend``.
        name: the unknown name.
        known: the names that exist.
        hint: a sentence for the end of the message.
    """

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
    """An option has an invalid value. The message says which values are valid."""


class BusyError(MemagentError):
    """Another process uses this user's memory. The message says which process, and since when."""


class StorageError(MemagentError):
    """The home folder or the journal cannot be read or written (full disk, rights, newer schema)."""


class JournalDamagedError(StorageError):
    """The journal has lost turns. Nothing is derived from it until the user restores it or accepts the loss.

    Args:
        message: what the journal has, and what shows that it had more before.
        user: name of the journal's user.
    """

    def __init__(self, message: str, user: str) -> None:
        name = shlex.quote(user)
        super().__init__(
            f"{message} Put a newer backup in its place, or, if there is none, go on with what is there: "
            f"memagent accept-loss --user {name}"
        )


class CheckpointError(MemagentError):
    """A backend's stored state is damaged, or another model or setting produced it. The journal can rebuild it."""


class ModelError(MemagentError):
    """A model cannot be fetched, verified, loaded or run."""


class MissingExtraError(MemagentError):
    """A package is not installed. The message contains the command that installs it.

    Args:
        feature: what needs the package.
        module: the module that could not be imported. Its package can have another name (yaml belongs to PyYAML), so
            the command installs an extra or a distribution together with its dependencies.
        extra: the extra of memagent that depends on the package; empty: none.
        distribution: the distribution that depends on the package; empty if unknown.
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
    """Return a name that prints on one line: unchanged, or quoted with escapes if it contains unprintable characters."""
    return name if name.isprintable() else repr(name)
