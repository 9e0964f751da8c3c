"""memagent backends: list, show, stats, rebuild, consolidate."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from memagent.agent.home import Home
from memagent.backends import registry
from memagent.backends.errors import MemagentError, NotFoundError
from memagent.cli.main import app

pytestmark = pytest.mark.usefixtures("home")


def memagent(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


def as_json(*arguments: str) -> object:
    done = memagent(*arguments, "--output", "json")
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def remember(*texts: str) -> None:
    memagent("remember", "-", "-b", "none", stdin="\n".join(texts).encode())


def test_every_backend_is_listed_with_what_it_can() -> None:
    rows = as_json("backends", "list")
    assert isinstance(rows, list)
    assert [row["backend"] for row in rows] == registry.names()
    (rag,) = [row for row in rows if row["backend"] == "rag"]
    assert rag["exact_forget"] is True
    assert rag["needs_embedder"] is True
    assert rag["needs_local_model"] is False
    assert all(row["about"] for row in rows)


def test_the_list_for_people_names_every_backend() -> None:
    heading, *lines = memagent("backends", "list").stdout.splitlines()
    assert heading.split() == ["backend", "can", "needs", "about"]
    assert set(registry.names()) <= {line.split()[0] for line in lines if not line.startswith("  " * 3)}


def test_settings_are_shown_with_types_and_defaults() -> None:
    found = as_json("backends", "show", "rag")
    assert isinstance(found, dict)
    assert list(found) == ["backend", "capabilities", "settings"]
    assert [list(row) for row in found["settings"]] == [["setting", "type", "default"]] * 5
    defaults = {row["setting"]: row["default"] for row in found["settings"]}
    assert (defaults["abstain"], defaults["candidates"], defaults["url"]) == (True, 100, "")
    shown = memagent("backends", "show", "rag").stdout
    assert "--set abstain=True    (bool)" in shown
    assert "abstain: return only what seems relevant" in shown


def test_types_are_named_for_people() -> None:
    shown = memagent("backends", "show", "rag").stdout
    assert "Field(" not in shown
    assert "Annotated" not in shown


@pytest.mark.parametrize("name", registry.names())
def test_every_setting_shown_can_be_given_with_its_default(name: str) -> None:
    found = as_json("backends", "show", name)
    assert isinstance(found, dict)
    backend = registry.get(name)
    shown = {row["setting"]: str(row["default"]) for row in found["settings"]}
    assert registry.configure(backend, shown) == registry.configure(backend, {})


@pytest.mark.parametrize("name", registry.names())
def test_every_setting_is_documented(name: str) -> None:
    found = as_json("backends", "show", name)
    assert isinstance(found, dict)
    documentation = memagent("backends", "show", name).stdout
    assert all(f"{row['setting']}: " in documentation for row in found["settings"])


@pytest.mark.parametrize("command", ["show", "stats", "rebuild", "consolidate"])
def test_an_unknown_backend_suggests_the_near_one(command: str) -> None:
    remember("My dog is called Biscuit.")
    done = memagent("backends", command, "raag")
    assert isinstance(done.exception, NotFoundError)
    assert "There is no backend 'raag'. Did you mean rag?" in str(done.exception)


@pytest.mark.parametrize("command", ["stats", "rebuild", "consolidate"])
def test_a_user_without_a_journal_is_not_found(home: Home, command: str) -> None:
    done = memagent("backends", command, "in_memory", "-u", "nobody")
    assert isinstance(done.exception, NotFoundError)
    assert not home.root.exists()


def test_stats_tell_what_a_memory_holds() -> None:
    remember("My dog is called Biscuit.", "I live in Porto.")
    found = as_json("backends", "stats", "rag")
    assert isinstance(found, dict)
    assert list(found)[:7] == [
        "backend",
        "user",
        "turns_read_up_to",
        "items",
        "tokens",
        "bytes_on_disk",
        "bytes_in_memory",
    ]
    assert (found["backend"], found["user"], found["turns_read_up_to"]) == ("rag", "default", 2)
    assert (found["items"], found["vectors"], found["embedder"]) == (2, 2, "hashing+multilingual")
    assert found["bytes_on_disk"] > 0


def test_stats_for_people_name_the_same_figures() -> None:
    remember("My dog is called Biscuit.")
    lines = memagent("backends", "stats", "in_memory").stdout.splitlines()
    shown = dict(line.strip().split("  ") for line in lines)
    assert shown["backend"] == "in_memory"
    assert shown["turns read up to"] == "1"
    assert shown["items"] == "1"


def test_stats_take_settings_and_refuse_unknown_ones() -> None:
    remember("My dog is called Biscuit.")
    assert memagent("backends", "stats", "in_memory", "--set", "threshold=0.5").exit_code == 0
    assert isinstance(
        memagent("backends", "stats", "in_memory", "--set", "nosuch=1").exception, MemagentError
    )


@pytest.mark.parametrize("backend", ["in_memory", "rag"])
def test_a_damaged_memory_is_rebuilt_from_the_journal(home: Home, backend: str) -> None:
    remember("My dog is called Biscuit.", "I live in Porto.")
    done = memagent("backends", "rebuild", backend)
    assert (done.exit_code, done.stdout) == (0, f"Rebuilt {backend} from 2 turns.\n")
    for path in home.backend_folder("default", backend).glob("0*/*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    done = memagent("backends", "rebuild", backend)
    assert (done.exit_code, done.stdout) == (0, f"Rebuilt {backend} from 2 turns.\n")
    found = json.loads(memagent("recall", "What is my dog called?", "-b", backend, "-o", "json").stdout)
    assert [item["text"] for item in found] == ["My dog is called Biscuit."]


def test_a_memory_that_cannot_tidy_up_says_so() -> None:
    remember("My dog is called Biscuit.")
    done = memagent("backends", "consolidate", "in_memory")
    assert done.exit_code == 0
    assert done.stdout == "This backend has nothing to consolidate. (1 items before, 1 after)\n"


def test_consolidation_keeps_what_can_be_recalled() -> None:
    remember("My dog is called Biscuit.", "I live in Porto.")
    done = memagent("backends", "consolidate", "rag")
    assert done.exit_code == 0
    assert "(2 items before, 2 after)" in done.stdout
    found = json.loads(memagent("recall", "What is my dog called?", "-b", "rag", "-o", "json").stdout)
    assert [item["text"] for item in found] == ["My dog is called Biscuit."]
