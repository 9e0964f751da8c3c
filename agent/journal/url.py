"""Checks of ``MEMAGENT_JOURNAL``: which database URLs can keep a journal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memagent.backends.errors import MissingExtraError, SettingError

if TYPE_CHECKING:
    from sqlalchemy import URL, Dialect

_EXPECTED = (
    "Expected postgresql+psycopg://user@host/name or sqlite:////absolute/path/to/file; "
    "unset it to keep one SQLite file for each user."
)


def check_journal_url(url: str) -> None:
    """Refuse the URL of a database that cannot be opened as a journal, or would not keep one where it seems to.

    Raises:
        SettingError: it is not a database URL, or it names a SQLite database in memory or by a relative path.
        MissingExtraError: the database's driver is not installed.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        database_url = make_url(url)
        dialect = database_url.get_dialect()
    except NoSuchModuleError as error:
        scheme = url.partition("://")[0]
        raise SettingError(
            f"MEMAGENT_JOURNAL begins with {scheme!r}, which is no database known here. {_EXPECTED}"
        ) from error
    except (ArgumentError, ValueError) as error:  # not quoted: it may hold a password
        raise SettingError(f"MEMAGENT_JOURNAL is not a database URL. {_EXPECTED}") from error
    label = f"MEMAGENT_JOURNAL={url if database_url.password is None else database_url.render_as_string()}"
    if dialect.is_async:
        raise SettingError(f"{label} names an asynchronous driver, which cannot be used here. {_EXPECTED}")
    if dialect.name == "sqlite":
        _check_sqlite(database_url, label)
    _check_driver(database_url, dialect, label)


def _check_sqlite(url: URL, label: str) -> None:
    """Refuse what SQLite would keep in memory, or in another file for each working directory."""
    path = url.database or ""
    if path in ("", ":memory:") or path.startswith("file::memory:") or "memory" in url.query.get("mode", ()):
        raise SettingError(
            f"{label} is a database in memory, which is gone when the command ends. {_EXPECTED}"
        )
    if path.startswith("file:") or url.query:
        raise SettingError(f"{label}: SQLite's own URIs and arguments are not taken. {_EXPECTED}")
    if url.host or not os.path.isabs(path):
        absolute = f"/{url.host}/{path}" if url.host else os.path.abspath(os.path.expanduser(path))
        raise SettingError(
            f"{label} is a path relative to the working directory, so each folder would have a journal of its own. "
            f"Write sqlite:///{absolute}"
        )


def _check_driver(url: URL, dialect: type[Dialect], label: str) -> None:
    """Refuse a URL whose driver is not installed.

    Raises:
        SettingError: it is a driver for PostgreSQL other than psycopg.
        MissingExtraError: it is psycopg or another database's driver, or a library that it needs is missing.
    """
    try:
        dialect.import_dbapi()
    except ImportError as error:  # also where psycopg is there, but not the library it needs
        driver = url.get_driver_name()
        if dialect.name == "postgresql" and driver != "psycopg":
            raise SettingError(
                f"{label} needs the driver {driver}, which is not installed. Begin it with postgresql+psycopg:// "
                "instead: `pip install 'memagent[postgres]'` installs that driver."
            ) from error
        if dialect.name == "postgresql":
            raise MissingExtraError(label, driver, "postgres") from error
        raise MissingExtraError(label, error.name or driver, distribution="") from error
