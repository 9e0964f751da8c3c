"""Which database URLs may hold a journal."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.journal import Journal
from memagent.agent.journal.url import check_journal_url
from memagent.backends.errors import MissingExtraError, SettingError


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file::memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:journal?mode=memory&uri=true",
        "sqlite:////srv/journal.db?mode=memory",
        "sqlite:////srv/journal.db?mode=ro&mode=memory",
    ],
)
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="is a database in memory, which is gone when the command ends"):
        check_journal_url(url)


def test_an_encoded_name_is_refused() -> None:
    """SQLAlchemy 2.1 decodes it to the name of a database in memory; before, it is a relative path."""
    with pytest.raises(SettingError, match=r"database in memory|relative to the working directory"):
        check_journal_url("sqlite:///%3Amemory%3A")


@pytest.mark.parametrize("url", ["sqlite:///file:/j?vfs=memdb&uri=true", "sqlite:////srv/j.db?nolock=1"])
def test_what_only_sqlite_could_explain_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="URIs and arguments are not taken"):
        check_journal_url(url)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("sqlite:///shared.db", "sqlite:///{here}/shared.db"),
        ("sqlite:///a/../shared.db", "sqlite:///{here}/shared.db"),
        ("sqlite:///~/shared.db", "sqlite:///{home}/shared.db"),
        ("sqlite://srv/memagent/shared.db", "sqlite:////srv/memagent/shared.db"),
    ],
)
def test_a_relative_path_is_refused_and_what_to_write_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ana")
    with pytest.raises(SettingError, match="relative to the working directory") as refused:
        check_journal_url(url)
    advice = str(refused.value).rpartition("Write ")[2]
    assert advice == meant.format(here=tmp_path, home="/home/ana")
    check_journal_url(advice)


@pytest.mark.parametrize(
    "url",
    [
        "journal",
        "/srv/journal.db",
        "://",
        " sqlite:////srv/journal.db",
        "postgres://ana:secret@host/db",
        "postgresql://ana:secret@host:port/db",
        "postgresql+psycopg://[::1/secret",
        "postgresql+nosuch://ana:secret@host/db",
        "http://ana:secret@host/db",
        "sqlite+aiosqlite:////srv/journal.db",
        "postgresql+asyncpg://ana:secret@host/db",
    ],
)
def test_what_names_no_usable_database_is_refused_without_telling_the_password(url: str) -> None:
    with pytest.raises(SettingError, match="MEMAGENT_JOURNAL") as refused:
        check_journal_url(url)
    assert "Expected postgresql+psycopg://" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.fixture
def no_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing a database's driver fails, whether it is installed or not."""
    imported = builtins.__import__

    def import_(name: str, *more: Any, **named: Any) -> Any:
        if name.split(".")[0] in ("psycopg", "psycopg2", "MySQLdb"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", import_)


@pytest.mark.usefixtures("no_drivers")
@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("postgresql+psycopg://ana:secret@host/db", "`pip install 'memagent[postgres]'` installs it"),
        (
            "postgresql+psycopg2://ana:secret@host/db",
            "Begin it with postgresql+psycopg:// instead: `pip install 'memagent[postgres]'` installs that driver",
        ),
        ("mysql+mysqldb://ana:secret@host/db", "module MySQLdb, which is not installed"),
    ],
)
def test_a_missing_driver_is_told_with_what_installs_the_one_that_is_used(url: str, advice: str) -> None:
    with pytest.raises((SettingError, MissingExtraError)) as refused:
        check_journal_url(url)
    assert advice in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["j.db", "with space.db", "umlaut ä.db", ":memory:"])
def test_a_file_by_its_absolute_path_is_taken_and_keeps_what_it_is_told(tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{tmp_path}/{name}"
    check_journal_url(url)
    with Journal(url, "ana") as journal:
        journal.append("monday", "user", "My dog is called Biscuit.")
    assert (tmp_path / name).exists()
    with Journal(url, "ana") as journal:
        assert [turn.text for turn in journal.turns()] == ["My dog is called Biscuit."]
