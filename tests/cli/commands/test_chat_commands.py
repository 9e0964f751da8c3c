"""Slash commands on sessions and memories, typed into the plain chat through a pipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memagent.agent.home import Home
from memagent.agent.memory import open_journal
from memagent.cli.chat.chat import ChatOptions
from memagent.cli.chat.commands import COMMANDS
from memagent.cli.main import app
from tests.cli.commands.remembering import FACT, QUESTION, files_holding, memagent, stored_turns

pytestmark = pytest.mark.usefixtures("echo_and_words")
TRIP = "[red]my trip[/red]"


def talk(*lines: str, session: str = "monday") -> Result:
    done = CliRunner().invoke(
        app, ["chat", "--session", session], input="".join(f"{line}\n" for line in lines)
    )
    assert done.exit_code == 0, done.exception
    return done


@pytest.fixture(autouse=True)
def facts(echo_and_words: None) -> None:
    memagent("remember", FACT, "--session", "sunday")
    memagent("remember", "I [bold]fly[/bold] to Porto.", "--session", TRIP)


# sessions


def test_sessions_are_listed_with_their_titles() -> None:
    heading, *rows = talk("/sessions").stdout.splitlines()[1:4]
    assert heading.split() == ["session", "last", "turn", "turns", "title"]
    assert rows[0].split()[0] == "sunday"
    assert rows[0].rstrip().endswith(f"1  {FACT}")
    assert TRIP in rows[1]
    assert "I [bold]fly[/bold] to Porto." in rows[1]


def test_a_session_is_continued_and_another_one_begun(home: Home) -> None:
    shown = talk(f"/resume {TRIP}", "In May.", "/new", "Hello.", "/new friday", "Bye.").stdout
    assert f"Session {TRIP} continues." in shown
    assert "Continue with: memagent chat --session friday" in shown
    turns = stored_turns(home)
    assert f"3 {TRIP}/user: In May." in turns
    assert "7 friday/user: Bye." in turns


def test_a_session_is_deleted_for_good_after_a_question(home: Home) -> None:
    refused = talk("/delete sunday", "n").stdout
    assert "Forget session 'sunday' with 1 turn for good? [y/N]" in refused
    assert files_holding(home, "Biscuit")
    done = talk("/delete sunday", "y", "/delete sunday").stdout
    assert "Deleted session 'sunday': 1 turn forgotten." in done
    assert "Error: There is no session 'sunday'." in done
    assert not files_holding(home, "Biscuit")
    with open_journal(home, "default") as journal:
        assert journal.session_names() == [TRIP]


# memories


def test_memories_are_listed_with_what_they_cost() -> None:
    shown = talk("/backend").stdout
    assert (
        "\nbm25: Ranks past turns by BM25 over their words, without a model. bm25 has 2 turns to read: about 16 ms"
        in shown
    )
    assert "\nin_memory: Recalls the turns that share most words" in shown
    assert "In use.\n" in shown


def test_another_memory_is_used_after_a_question() -> None:
    done = talk("/backend bm25", "n", "/backend bm25", "y", QUESTION, "/why")
    assert (
        "bm25 has 2 turns to read: about 16 ms on two CPU cores.\nUse bm25 from now on? [y/N]" in done.stdout
    )
    assert "bm25 is in use; memory reaches the model by the channel text." in done.stdout
    assert "Opening bm25 ..." in done.stderr
    assert "bm25 took" in done.stdout
    assert "Continue with: memagent chat --backend bm25 --session monday" in done.stdout


def test_memories_that_share_a_part_with_the_one_in_use_are_used() -> None:
    done = talk("/backend in_memory+bm25", "y", "/backend in_memory", "y", QUESTION, "/why").stdout
    assert "in_memory+bm25 is in use" in done
    assert "in_memory is in use" in done
    assert "Biscuit" in done


def test_a_memory_that_cannot_be_used_leaves_the_one_in_use() -> None:
    done = talk("/backend rope_map", "y", "/backend in_memory+rope_map", "y", QUESTION, "/why").stdout
    assert done.count("Error: This memory works inside a local model, and echo is not local.") == 2
    assert "in_memory took" in done
    assert "Biscuit" in done


def test_a_memory_says_which_models_it_fetches(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_EMBEDDER", "all-minilm-l6-v2")
    monkeypatch.setenv("MEMAGENT_MODELS", str(home.root / "no models"))
    shown = talk("/backend rag", "n").stdout
    assert (
        "rag has 2 turns to read: about 80 ms on two CPU cores. It first fetches all-minilm-l6-v2 (91 MB)."
        in shown
    )


def test_two_memories_answer_one_after_the_other_and_nothing_is_stored(home: Home) -> None:
    before = stored_turns(home)
    shown = talk(f"/compare {QUESTION}", f"/compare none {QUESTION}", "/compare").stdout
    first, second = shown.index("in_memory (text)"), shown.index("bm25 (text)")
    assert first < shown.index("Biscuit") < second < shown.index("none (text)")
    assert "Nothing relevant was found." in shown
    assert shown.count("recall ") == 4
    assert "Error: /compare takes a question" in shown
    assert stored_turns(home) == before


# whether anybody has named a model


@pytest.mark.parametrize(
    ("arguments", "named"),
    [([], False), (["--model", "echo"], True), (["--model", "qwen2.5-coder-0.5b"], True)],
)
@pytest.mark.parametrize("setting", ["", "environment", "file"])
def test_a_chat_knows_whether_a_model_was_named(
    home: Home, monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: bool, setting: str
) -> None:
    monkeypatch.delenv("MEMAGENT_MODEL")
    if setting == "environment":
        monkeypatch.setenv("MEMAGENT_MODEL", "echo")
    elif setting == "file":
        memagent("config", "set", "model", "echo")
    options_of: list[ChatOptions] = []

    def note(options: ChatOptions) -> None:
        options_of.append(options)

    monkeypatch.setattr("memagent.cli.commands.chat.has_screen", lambda: True)
    monkeypatch.setattr("memagent.cli.chat.fullscreen.program.run", note)
    assert memagent("chat", *arguments).exit_code == 0
    assert options_of[0].model_is_default == (not named and not setting)


def test_titles_are_in_the_json_of_sessions() -> None:
    rows = json.loads(memagent("sessions", "list", "--output", "json").stdout)
    assert [(row["session"], row["title"]) for row in rows] == [
        ("sunday", FACT),
        (TRIP, "I [bold]fly[/bold] to Porto."),
    ]


def test_the_page_of_the_chat_names_every_command() -> None:
    page = (Path(__file__).parents[3] / "docs" / "chat.md").read_text(encoding="utf-8")
    assert not [name for name in COMMANDS if f"| `{name}" not in page]
