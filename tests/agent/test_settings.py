"""Settings: the environment over the settings file over defaults, and what the file may hold."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.settings import UserSettings, environment_keys, file_keys, parse_key, parse_value
from memagent.agent.settings_file import line_of, settings_path, write_value
from memagent.backends.errors import NotFoundError, SettingError, StorageError


@pytest.fixture
def file(home: Home) -> Path:
    """The path of this test's settings file, which is not there yet."""
    return settings_path()


def change(path: Path, key: str, value: str) -> None:
    parsed = parse_key(key)
    write_value(path, parsed, parse_value(parsed, value))


# order


def test_without_file_and_environment_there_are_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMAGENT_EMBEDDER")
    settings = UserSettings.load()
    assert (settings.user, settings.backend, settings.model) == ("default", "rag", DEFAULT_MODEL)
    assert (settings.embedder, settings.channel, settings.journal) == (
        "all-minilm-l6-v2",
        "auto",
        None,
    )
    assert settings.backends == {}
    assert not file.exists()


def test_the_environment_comes_before_the_file_and_the_file_before_defaults(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('user = "ana"\nmodel = "echo"\n[backends.rag]\nabstain = false\ncandidates = 7\n')
    monkeypatch.setenv("MEMAGENT_USER", "bo")
    monkeypatch.setenv("MEMAGENT_MODEL", "")  # an empty variable is no variable
    monkeypatch.setenv("MEMAGENT_BACKENDS__RAG__CANDIDATES", "9")
    settings = UserSettings.load()
    assert (settings.user, settings.model, settings.backend) == ("bo", "echo", "rag")
    assert settings.backend_settings("rag") == {"abstain": "false", "candidates": "9"}
    assert settings.backend_settings("titans") == {}
    assert ("user",) in environment_keys()
    assert file_keys() == {
        ("user",),
        ("model",),
        ("backends", "rag", "abstain"),
        ("backends", "rag", "candidates"),
    }


def test_the_library_does_not_read_the_file_unasked(file: Path, tmp_path: Path) -> None:
    file.write_text(f'user = "ana"\njournal = "sqlite:///{tmp_path}/shared.db"\n')
    assert UserSettings.from_environment().user == "default"
    assert Home.from_environment().journal_url is None
    assert Home.from_settings(UserSettings.load()).journal_url == f"sqlite:///{tmp_path}/shared.db"


def test_the_file_names_the_folders(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f'home = "{tmp_path}/memories"\nmodels = "{tmp_path}/weights"\n')
    for name in ("MEMAGENT_HOME", "MEMAGENT_MODELS"):
        monkeypatch.delenv(name)
    assert Home.from_settings(UserSettings.load()) == Home(tmp_path / "memories", tmp_path / "weights")
    file.write_text(f'home = "{file}"\n')
    with pytest.raises(SettingError, match="settings file's home=.* it is not a folder"):
        Home.from_settings(UserSettings.load())


def test_another_file_is_used_where_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMAGENT_CONFIG", str(tmp_path / "other.toml"))
    assert settings_path() == tmp_path / "other.toml"
    monkeypatch.setenv("MEMAGENT_CONFIG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert settings_path().name == "config.toml"
    assert "memagent" in settings_path().parts


# what the file may hold


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('# mine\n\nusr = "ana"', "line 3: usr: there is no setting 'usr'. Did you mean user?"),
        ("user = 5", "line 1: user: 5 does not fit: expected text in quotes"),
        ('channel = "loud"', "line 1: channel: 'loud' does not fit: expected 'auto', 'text', 'model' or 'both'"),
        ("backends = 3", "line 1: backends: 3 does not fit: expected a table"),
        ("[backends.rag]\ncandidates = [1]", "line 2: backends.rag.candidates: [1] does not fit: expected text, a number"),
        ("[backends.rgg]\ncandidates = 1", "line 1: backends.rgg: no installed package offers the backend 'rgg'. Did you mean rag?"),
        ('backend = "ragg"', "line 1: backend: no installed package offers the backend 'ragg'"),
        ('home = "memories"', "line 1: home: expected a full path"),
        ("user = ana", "is not valid TOML: Invalid value (at line 1, column 8)"),
        ('user = "a"\nuser = "b"', "is not valid TOML: Cannot overwrite a value"),
        ("a = " + "[" * 5000, "is not valid TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_and_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingError) as caught:
        UserSettings.load()
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_a_wrong_variable_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_CHANNEL", "loud")
    with pytest.raises(SettingError, match="^MEMAGENT_CHANNEL='loud' does not fit: expected 'auto'"):
        UserSettings.load()
    monkeypatch.delenv("MEMAGENT_CHANNEL")
    monkeypatch.setenv("MEMAGENT_BACKENDS", "not JSON")
    with pytest.raises(SettingError, match="MEMAGENT_"):
        UserSettings.from_environment()


def test_a_file_that_is_not_utf8_is_refused_with_the_line(file: Path) -> None:
    file.write_bytes(b'user = "ana"\nmodel = "\xff"\n')
    with pytest.raises(SettingError, match="line 2: byte 0xff is not valid UTF-8"):
        UserSettings.load()


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_a_file_that_everybody_may_write_is_refused(file: Path) -> None:
    file.write_text('home = "/somebody/elses"\n')
    file.chmod(0o602)
    with pytest.raises(SettingError, match="every account .* chmod 600"):
        UserSettings.load()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read_is_refused(file: Path) -> None:
    file.write_text('user = "ana"\n')
    file.chmod(0)
    with pytest.raises(SettingError, match="cannot be read: Permission denied"):
        UserSettings.load()


def test_what_is_no_file_or_too_large_is_refused(file: Path) -> None:
    file.mkdir()
    with pytest.raises(SettingError, match="is not a file"):
        UserSettings.load()
    file.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(file)
        with pytest.raises(SettingError, match="is not a file"):
            UserSettings.load()
        file.unlink()
    file.write_text("#" * 1_000_001)
    with pytest.raises(SettingError, match="1,000,001 bytes"):
        UserSettings.load()


# changing the file


def test_a_change_keeps_the_rest_and_is_private(file: Path) -> None:
    file.write_text('# mine\nuser = "ana"  # me\n\n# for benchmarks\n[backends.rag]\ncandidates = 7 # more\n')
    file.chmod(0o644)
    change(file, "user", 'b"o\x7f')
    change(file, "model", "echo")
    change(file, "backends.rag.abstain", "false")
    change(file, "backends.in_memory.threshold", "0.5")
    assert file.read_text() == (
        '# mine\nuser = "b\\"o\\u007f"\nmodel = "echo"\n\n# for benchmarks\n'
        "[backends.rag]\nabstain = false\ncandidates = 7 # more\n\n[backends.in_memory]\nthreshold = 0.5\n"
    )
    assert UserSettings.load().user == 'b"o\x7f'
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir() if "config" in entry.name] == ["config.toml"]


def test_a_first_value_stands_before_tables(file: Path) -> None:
    change(file, "backends.rag.candidates", "3")
    change(file, "user", "ana")
    assert tomllib.loads(file.read_text()) == {"user": "ana", "backends": {"rag": {"candidates": 3}}}


def test_a_value_is_removed_once(file: Path) -> None:
    file.write_text('user = "ana"\n[backends.rag]\ncandidates = 7\nabstain = false\n')
    assert write_value(file, ("backends", "rag", "candidates"), None)
    assert write_value(file, ("user",), None)
    assert file.read_text() == "[backends.rag]\nabstain = false\n"
    assert not write_value(file, ("user",), None)
    assert not write_value(file, ("backends", "titans", "k"), None)


@pytest.mark.parametrize(
    "text",
    ['user = """\nana\n"""\n', "backends = {rag = {candidates = 7}}\n", 'model = """\nuser = "x"\n"""\n'],
)
def test_an_unusual_form_is_left_to_an_editor(file: Path, text: str) -> None:
    file.write_text(text)
    key = "backends.rag.candidates" if "backends" in text else "user"
    with pytest.raises(SettingError, match=f"{key} is written in .* text editor|is not valid TOML"):
        change(file, key, "3")
    assert file.read_text() == text


def test_a_link_to_the_file_stays_a_link(file: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    file.symlink_to(tmp_path / "dotfiles" / "memagent.toml")
    change(file, "user", "ana")
    assert file.is_symlink()
    assert (tmp_path / "dotfiles" / "memagent.toml").read_text() == 'user = "ana"\n'


def test_an_account_without_a_home_folder_has_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> object:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CONFIG_HOME", "MEMAGENT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    assert UserSettings.load().user == "default"
    with pytest.raises(SettingError, match="no home folder. Set MEMAGENT_CONFIG"):
        write_value(settings_path(), ("user",), "ana")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((SettingError, StorageError), match="file"):
        write_value(tmp_path / "file" / "config.toml", ("user",), "ana")


def test_a_wrong_key_can_be_removed_while_another_is_wrong(file: Path) -> None:
    file.write_text("usr = 1\nuser = 5\n")
    assert write_value(file, ("usr",), None)
    assert file.read_text() == "user = 5\n"


# keys and values as a person writes them


@pytest.mark.parametrize(
    "key", ["usr", "backends", "backends.rag", "backends.rag.", "user.name", "", "x.y.z"]
)
def test_an_unknown_key_is_refused(key: str) -> None:
    with pytest.raises(SettingError, match="there is no setting"):
        parse_key(key)


def test_values_are_checked_and_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_value(("backends", "rag", "abstain"), "no") is False
    assert parse_value(("backends", "rag", "candidates"), "12") == 12
    assert parse_value(("home",), "here") == str(tmp_path / "here")
    for key, value, error in (
        (("channel",), "loud", SettingError),
        (("backend",), "ragg", NotFoundError),
        (("backends", "ragg", "k"), "1", NotFoundError),
        (("backends", "rag", "nosuch"), "1", NotFoundError),
        (("backends", "rag", "candidates"), "many", SettingError),
        (("journal",), "sqlite://", SettingError),
        (("embedder",), "nosuch", NotFoundError),
        (("home",), " ", SettingError),
    ):
        with pytest.raises(error):
            parse_value(key, value)


def test_the_line_of_a_key_is_found() -> None:
    text = '# x\nuser = "a"\n\n[ backends . "rag" ] # y\ncandidates = 1\n'
    assert line_of(text, ("user",)) == 2
    assert line_of(text, ("backends", "rag")) == 4
    assert line_of(text, ("backends", "rag", "candidates")) == 5
    assert line_of(text, ("k",)) is None
