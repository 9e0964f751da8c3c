"""Models are fetched and verified before a memory's lock is taken, and only where they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memagent import Agent
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.memory.lock import backend_lock
from memagent.agent.models import hub, loader
from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_EMBEDDER, PinnedFile
from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.models.fetching import fetch_models
from memagent.agent.models.sentence_encoder import SentenceEncoder
from memagent.backends.errors import BusyError, ModelError, NotFoundError
from memagent.backends.protocol import Vectors
from memagent.cli.main import app

WEIGHTS = b"weights"
STORING = ["rag", "titans"]


@pytest.fixture
def bare(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home without any model; the default embedder is one small file, and embeds by word hashing once it is here."""

    def embed(self: SentenceEncoder, texts: Sequence[str]) -> Vectors:
        self._get_folder()
        return HashingEmbedder().embed(texts)

    file = PinnedFile("model.bin", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest(), "model.bin")
    tiny = replace(CATALOGUE[DEFAULT_EMBEDDER], files=(file,), carriers=((),))
    monkeypatch.setitem(CATALOGUE, DEFAULT_EMBEDDER, tiny)
    monkeypatch.setattr(SentenceEncoder, "embed", embed)
    monkeypatch.setattr(SentenceEncoder, "embed_queries", embed)
    monkeypatch.setenv("MEMAGENT_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("MEMAGENT_EMBEDDER")
    return Home(home.root, tmp_path / "models")


@pytest.fixture
def fetches(bare: Home, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each file that the fake hub delivers: whether a memory's lock was held meanwhile."""
    held: list[bool] = []

    def deliver(model: object, file: PinnedFile, folder: Path, *others: object) -> bool:
        held.append(any(_is_held(bare, name) for name in STORING))
        (folder / file.name).write_bytes(WEIGHTS)
        return True

    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(hub, "_from_hub", deliver)
    return held


def _is_held(home: Home, backend: str) -> bool:
    lock = backend_lock(home, "default", backend)
    try:
        lock.acquire(0)
    except BusyError:
        return True
    lock.release()
    return False


def test_the_fake_hub_sees_a_lock_that_is_held(bare: Home, fetches: list[bool]) -> None:
    with Memory.open(bare, "default", "rag") as memory:
        memory.remember("monday", "user", "My dog is called Biscuit.")
    assert fetches == [True]


@pytest.mark.parametrize(
    "command",
    [
        ["chat", "--prompt", "My dog is called Biscuit.", "--model", "echo"],
        ["remember", "My dog is called Biscuit."],
        ["backends", "rebuild"],
    ],
)
@pytest.mark.parametrize("backend", STORING)
def test_commands_fetch_before_they_lock(
    bare: Home, fetches: list[bool], backend: str, command: list[str]
) -> None:
    CliRunner().invoke(app, ["remember", "Hello.", "--backend", "none"])
    assert fetches == []
    line = [*command, backend] if command[0] == "backends" else [*command, "--backend", backend]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert fetches == [False]


def test_forgetting_fetches_what_stored_memories_need_before_it_locks_them(
    bare: Home, fetches: list[bool]
) -> None:
    CliRunner().invoke(app, ["remember", "My dog is called Biscuit."])
    CliRunner().invoke(app, ["backends", "rebuild", "rag"])
    (CATALOGUE[DEFAULT_EMBEDDER].folder(bare.models) / "model.bin").unlink()
    fetches.clear()
    done = CliRunner().invoke(app, ["forget", "--matching", "Biscuit", "--yes", "--backend", "none"])
    assert done.exit_code == 0, done.output
    assert fetches == [False]


def test_an_agent_fetches_before_it_locks(bare: Home, fetches: list[bool]) -> None:
    with Agent.open(home=bare, model="echo") as agent:
        agent.ask("My dog is called Biscuit.", session="monday")
    assert fetches == [False]


def test_a_chat_that_needs_no_embedder_fetches_none(bare: Home, fetches: list[bool]) -> None:
    done = CliRunner().invoke(app, ["chat", "-p", "Hello.", "--model", "echo", "--backend", "in_memory"])
    assert done.exit_code == 0, done.output
    assert fetches == []
    assert not (bare.models / DEFAULT_EMBEDDER).exists()


def test_a_model_that_cannot_be_had_stops_the_command_before_the_lock(
    bare: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(hub, "_from_hub", lambda *arguments: False)
    done = CliRunner().invoke(app, ["chat", "-p", "Hello.", "--model", "echo"])
    assert isinstance(done.exception, ModelError)
    assert not bare.backend_folder("default", "rag").exists()


def test_only_what_is_needed_is_fetched(bare: Home, fetches: list[bool]) -> None:
    notices: list[str] = []
    fetch_models(set(), bare.models, notify=notices.append)
    fetch_models({"local_model"}, bare.models, notify=notices.append)
    for name in ("echo", "ollama:llama3.2"):
        fetch_models({"local_model"}, bare.models, chat_model=name, notify=notices.append)
    fetch_models({"embedder"}, bare.models, embedder="hashing", notify=notices.append)
    assert (fetches, notices) == ([], [])
    fetch_models({"embedder"}, bare.models, notify=notices.append)
    assert fetches == [False]
    with pytest.raises(NotFoundError):
        fetch_models({"local_model"}, bare.models, chat_model="nosuch", notify=notices.append)
    with pytest.raises(NotFoundError):
        fetch_models({"embedder"}, bare.models, embedder="nosuch", notify=notices.append)


def test_a_model_of_the_hub_is_fetched_where_the_hub_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []

    def snapshot(name: str, **options: object) -> str:
        requests.append(name)
        if name == "no/such":
            raise OSError("no such repository")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for answers in (False, True):
        monkeypatch.setattr(loader, "hub_answers", lambda answers=answers: answers)
        fetch_models({"local_model"}, tmp_path, chat_model="a/b", notify=print)
    assert requests == ["a/b"]
    with pytest.raises(ModelError, match="The model no/such cannot be fetched: OSError: no such repository"):
        fetch_models({"local_model"}, tmp_path, chat_model="no/such", notify=print)


def test_a_file_is_converted_before_it_is_loaded_and_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    hashed: list[Path] = []

    def sha256_of(path: Path) -> str:
        hashed.append(path)
        return "0" * 64

    monkeypatch.setattr(loader, "sha256_of", sha256_of)
    monkeypatch.setattr(loader, "ensure_converted", lambda path, digest, target, notify: target)
    for _ in range(2):
        fetch_models({"local_model"}, tmp_path, chat_model=str(file), notify=print)
    assert hashed == [file]
