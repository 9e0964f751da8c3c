"""From what a user typed after ``--model`` to a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from memagent.agent.models.catalogue import CATALOGUE, CatalogueModel
from memagent.agent.models.chat import ChatModel
from memagent.agent.models.convert import converted
from memagent.agent.models.fakes import EchoModel
from memagent.agent.models.folder import check_folder
from memagent.agent.models.hub import Notify, Report, ensure, hub_answers, quiet, sha256_of
from memagent.backends.errors import ModelError, NotFoundError, SettingError
from memagent.backends.protocol import LocalModel

_PROVIDER = re.compile(r"[a-z][a-z0-9_]*:(?!//).+")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_chat_model(name: str, models: Path, *, notify: Notify, report: Report = quiet) -> ChatModel:
    """Load a chat model by catalogue name, path, hub id or provider string.

    Args:
        name: ``qwen2.5-coder-0.5b`` (catalogue), ``./model.gguf`` or a folder, ``Qwen/Qwen3-0.6B``
            (hub), ``ollama:llama3.2`` (LangChain provider), or ``echo`` (no weights).
        models: where fetched and converted models are kept.

    Raises:
        NotFoundError: the name is none of these.
        ModelError, MissingExtraError: it cannot be fetched, verified or loaded.
    """
    if name in CATALOGUE and CATALOGUE[name].kind == "chat":
        return _from_catalogue(CATALOGUE[name], models, notify, report)
    if name == EchoModel.name:
        return EchoModel()
    path = _existing_path(name)
    if path is not None:
        return _from_path(path, models, notify)
    if _PROVIDER.fullmatch(name):
        from memagent.agent.models.providers import ProviderChatModel

        return ProviderChatModel.from_string(name)
    if _HUB_ID.fullmatch(name) and not name.startswith(".") and not name.endswith(".gguf"):
        from memagent.agent.models.local import LocalChatModel

        return LocalChatModel(name, name=name, digest=f"hub:{name}", offline=not hub_answers())
    chat = [model.name for model in CATALOGUE.values() if model.kind == "chat"]
    raise NotFoundError(
        "model", name, [*chat, EchoModel.name], "A path, owner/name of the hub or provider:model works too."
    )


def as_local(model: ChatModel) -> LocalModel:
    """Return a chat model as the local model a backend may work inside.

    Raises:
        SettingError: it does not run in this process.
    """
    if not hasattr(model, "tokenizer"):
        raise SettingError(
            f"This memory works inside a local model; {model.name} is none. Choose another --model."
        )
    return cast(LocalModel, model)


def transformers_folder(model: CatalogueModel, models: Path) -> Path:
    """Where a catalogue chat model's converted form lies."""
    return model.folder(models) / "transformers"


def _existing_path(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # no path can have that name
        return None


def _from_catalogue(model: CatalogueModel, models: Path, notify: Notify, report: Report) -> ChatModel:
    folder = ensure(model, models, notify=notify, report=report)
    ready = converted(
        folder / model.weights.name, model.weights.sha256, transformers_folder(model, models), notify=notify
    )
    from memagent.agent.models.local import LocalChatModel

    return LocalChatModel(ready, name=model.name, digest=model.weights.sha256)


def _from_path(path: Path, models: Path, notify: Notify) -> ChatModel:
    from memagent.agent.models.local import LocalChatModel

    if path.is_dir():
        check_folder(path)
        return LocalChatModel(path, name=str(path), digest=sha256_of(min(path.glob("*.safetensors"))))
    if path.suffix != ".gguf" or not path.is_file():  # a pipe by that name would never end
        raise ModelError(f"{path} is neither a folder nor a .gguf file.")
    digest = sha256_of(path)
    ready = converted(path, digest, models / "converted" / digest[:16], notify=notify)
    return LocalChatModel(ready, name=str(path), digest=digest)
