"""Where things live: folder names that round trip, private modes, refusals."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from memagent.agent.files import create_private
from memagent.agent.home import Home, folder_name
from memagent.agent.memory import open_journal
from memagent.agent.models.catalogue import CATALOGUE
from memagent.agent.models.convert import ensure_converted
from memagent.agent.models.hub import ensure
from memagent.backends.errors import InputError, SettingError, StorageError
from tests.conftest import OpenMemory

ODD_NAMES = [
    "ana",
    "Ana",
    "ANA",
    "ana maria",
    "ana@example.org",
    "a.b.c",
    ".",
    "..",
    ".hidden",
    "x/../bob",
    "../../evil",
    "C:\\users\\ana",
    "%41na",
    "100%",
    "what?",
    "José",
    "Jose\u0301",
    "名前",
    "🦊",
    "-rf",
    " padded ",
    "tab\tand\nline",
]


@pytest.fixture
def loose_umask() -> Iterator[None]:
    """A umask that takes no rights away, so that only the code's own modes keep others out."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def readable_by_others(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): oct(mode(path))
        for path in [root, *root.rglob("*")]
        if mode(path) & 0o077
    }


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_comes_back_from_its_folder_name(name: str) -> None:
    assert unquote(folder_name(name)) == name


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_name_is_one_plain_folder(name: str) -> None:
    encoded = folder_name(name)
    assert set(encoded) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.%ABCDEF")
    assert encoded not in {".", ".."}


def test_names_stay_apart_on_disks_that_ignore_case() -> None:
    assert len({folder_name(name).casefold() for name in ODD_NAMES}) == len(ODD_NAMES)


@pytest.mark.parametrize("name", ["", " ", "\n\t"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="empty"):
        folder_name(name)


@pytest.mark.parametrize("name", ["\udc80", "ana\ud83d", "\udfff.txt"])
def test_a_name_with_a_lone_surrogate_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="UTF-8"):
        folder_name(name)


@pytest.mark.parametrize(("name", "encoded"), [("a" * 120, 120), ("A" * 40, 120), ("é" * 20, 120)])
def test_a_name_is_as_long_as_its_encoded_form(name: str, encoded: int) -> None:
    assert len(folder_name(name)) == encoded
    with pytest.raises(InputError, match="too long"):
        folder_name(name + name[0])


def test_users_are_listed_by_their_own_names(home: Home) -> None:
    assert home.users() == []
    for name in ODD_NAMES:
        create_private(home.user_folder(name))
    assert home.users() == sorted(ODD_NAMES)


def test_backends_of_a_user_are_listed_once_they_have_a_folder(home: Home) -> None:
    assert home.backends_of("ana") == []
    for name in ("rag", "in_memory"):
        create_private(home.backend_folder("ana", name))
    (home.user_folder("ana") / "backends" / "stray").write_text("a file is no backend")
    assert home.backends_of("ana") == ["in_memory", "rag"]
    assert home.backends_of("bob") == []


@pytest.mark.usefixtures("loose_umask")
def test_folders_are_made_private_with_all_missing_ones_above(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir(mode=0o755)
    folder = create_private(there / "a" / "b" / "c")
    assert [mode(path) for path in (folder, folder.parent, folder.parent.parent)] == [0o700] * 3
    assert mode(there) == 0o755


def test_making_a_folder_again_keeps_what_is_in_it(tmp_path: Path) -> None:
    folder = create_private(tmp_path / "home")
    (folder / "kept").write_text("here")
    assert (create_private(folder) / "kept").read_text() == "here"


@pytest.mark.usefixtures("loose_umask")
def test_the_journal_is_for_its_owner_only(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "hello")
        assert mode(home.journal_file("ana")) == 0o600
        assert readable_by_others(home.root) == {}


@pytest.mark.usefixtures("loose_umask")
def test_everything_a_memory_writes_is_for_its_owner_only(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", "hello")
    memory.checkpoint()
    assert readable_by_others(home.root) == {}
    assert {mode(path) for path in home.root.rglob("*") if path.is_file()} == {0o600}


def test_a_home_below_a_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="MEMAGENT_HOME"):
        create_private(tmp_path / "file" / "home")
    with pytest.raises(StorageError, match="cannot be created"):
        open_journal(Home(tmp_path / "file" / "home", tmp_path), "ana")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_that_cannot_be_is_refused_with_the_variable_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(StorageError, match="is not a folder. Set MEMAGENT_HOME"):
        create_private(file)
    with pytest.raises(StorageError, match="cannot be created .* Set MEMAGENT_MODELS"):
        ensure_converted(tmp_path / "model.gguf", "0" * 64, file / "converted" / "0", notify=print)
    for model in CATALOGUE.values():
        with pytest.raises(StorageError, match="cannot be created .* Set MEMAGENT_MODELS"):
            ensure(model, file / "models", notify=print)


def test_a_journal_url_that_keeps_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_JOURNAL", "sqlite://")
    with pytest.raises(SettingError, match="in memory"):
        Home.from_environment()


def test_the_environment_names_the_folders_and_nothing_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMAGENT_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("MEMAGENT_MODELS", str(tmp_path / "m"))
    url = f"sqlite:///{tmp_path}/shared.db"
    monkeypatch.setenv("MEMAGENT_JOURNAL", url)
    assert Home.from_environment() == Home(tmp_path / "h", tmp_path / "m", url)
    assert list(tmp_path.iterdir()) == []


def test_empty_and_relative_variables_have_a_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMAGENT_HOME", "relative")
    monkeypatch.setenv("MEMAGENT_MODELS", "")
    monkeypatch.setenv("MEMAGENT_JOURNAL", "")
    home = Home.from_environment()
    assert home.root == tmp_path / "relative"
    assert home.models.is_absolute()
    assert home.models.name == "models"
    assert home.journal_url is None
