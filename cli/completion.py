"""Shell completion of values: backends, models, users, sessions, keys of the settings file.

Each function returns quickly and imports no heavy package: a shell waits for it at every press of the Tab key. None
raises an error: a shell would print it into the command line that is being typed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import typer

_BACKENDS = "memagent.backends"  # registry.GROUP; the registry takes 0.2 s to import
_JOURNAL_SECONDS = 0.05

Arguments = ParamSpec("Arguments")


def _without_errors(complete: Callable[Arguments, list[str]]) -> Callable[Arguments, list[str]]:
    """Return no completions where an error is raised, and leave out names that do not print on one line."""

    @wraps(complete)
    def names(*args: Arguments.args, **named: Arguments.kwargs) -> list[str]:
        try:
            return [name for name in complete(*args, **named) if name.isprintable()]
        except Exception:  # noqa: BLE001 - see the module's docstring
            return []

    return names


@_without_errors
def backends(incomplete: str) -> list[str]:
    """Return the names of the installed backends."""
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group=_BACKENDS)})


@_without_errors
def backends_or_all(incomplete: str) -> list[str]:
    """Return ``all`` and the names of the installed backends."""
    return ["all", *backends(incomplete)]


@_without_errors
def chat_models(incomplete: str) -> list[str]:
    """Return the catalogue's chat models, and the model that needs no weights."""
    from memagent.agent.models.catalogue import CATALOGUE

    return [*(model.name for model in CATALOGUE.values() if model.kind == "chat"), "echo"]


@_without_errors
def embedders(incomplete: str) -> list[str]:
    """Return the embedders that have a name: the catalogue's, and those that need no files."""
    from memagent.agent.models.catalogue import CATALOGUE

    catalogue = (model.name for model in CATALOGUE.values() if model.kind == "embedder")
    return [*catalogue, "multilingual", "hashing"]


@_without_errors
def catalogue_models(incomplete: str) -> list[str]:
    """Return the names of all models in the catalogue."""
    from memagent.agent.models.catalogue import CATALOGUE

    return list(CATALOGUE)


@_without_errors
def users(incomplete: str) -> list[str]:
    """Return the users who have a folder in the home."""
    from memagent.agent.home import Home

    return Home(_home(), Path()).users()


@_without_errors
def sessions(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the user's sessions, the latest first; none where a shared database keeps the journal."""
    import sqlite3

    from memagent.agent.home import Home

    if _setting("journal"):
        return []
    user = context.params.get("user")
    source = context.get_parameter_source("user")
    if source is None or source.name == "DEFAULT":
        user = _setting("user") or user or "default"
    journal = Home(_home(), Path()).journal_file(str(user))
    if not journal.is_file():
        return []
    address = f"{journal.as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=_JOURNAL_SECONDS)) as database:
        rows = database.execute(
            'SELECT name FROM sessions WHERE "user" = ? ORDER BY created_at DESC', (user,)
        ).fetchall()
    return [str(name) for (name,) in rows]


@_without_errors
def setting_keys(incomplete: str) -> list[str]:
    """Return the keys that ``memagent config set`` takes; those of backends without their last part."""
    plain = ["user", "backend", "model", "embedder", "channel", "home", "models", "journal"]
    return [*plain, *(f"backends.{name}." for name in backends(incomplete))]


def _home() -> Path:
    from platformdirs import user_data_path

    home = _setting("home")
    return Path(home).expanduser().absolute() if home else user_data_path("memagent")


def _setting(key: str) -> str | None:
    """Return a setting without checking it: what checks it takes 0.2 s to import."""
    return os.environ.get(f"MEMAGENT_{key.upper()}") or _file_values().get(key)


def _file_values() -> dict[str, Any]:
    from memagent.agent.settings_file import parse, read_text, settings_path

    path = settings_path()
    return parse(read_text(path), path)
