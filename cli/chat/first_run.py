"""The first run: a person chooses a model and a memory before anything is fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_MODEL
from memagent.backends.errors import MemagentError, ModelError
from memagent.cli.chat.chat import Chat, ChatOptions, with_backend
from memagent.cli.chat.costs import is_here
from memagent.cli.opening import home

if TYPE_CHECKING:
    from memagent.cli.rendering.frontend import Frontend

ECHO = "echo"
"""The model that needs no weights."""
WAY_OUT = (
    "How to go on: `memagent models pull {model}` fetches it by itself, and continues where it stopped; "
    "`memagent chat --model echo` tries memory without a model; "
    "`memagent chat --model ollama:llama3.2` uses a model that Ollama or another provider runs."
)


@dataclass(frozen=True)
class Choice:
    """What a person chooses.

    Attributes:
        model: name of the chat model.
        backend: name of the memory.
        is_kept: whether the settings file keeps the choice for later chats.
    """

    model: str
    backend: str
    is_kept: bool = False


def is_first_run(options: ChatOptions) -> bool:
    """Return whether nobody has named a model, and the default one is not fetched yet."""
    return options.model_is_default and not is_here(CATALOGUE[DEFAULT_MODEL], home().models)


def with_choice(options: ChatOptions, choice: Choice) -> ChatOptions:
    """Return the options of a chat with what was chosen. Unless the choice is kept, the command that continues names it."""
    if choice.backend != options.backend:
        options = with_backend(options, choice.backend)
    command = options.command if choice.is_kept else (*options.command, "--model", choice.model)
    return replace(options, model=choice.model, command=command)


def keep(choice: Choice) -> str:
    """Write a choice into the settings file, and return its path.

    Raises:
        SettingError, StorageError: it cannot be written.
    """
    from memagent.agent.settings_file import settings_path, write_value

    path = settings_path()
    write_value(path, ("model",), choice.model)
    write_value(path, ("backend",), choice.backend)
    return str(path)


def opening(options: ChatOptions, choice: Choice) -> Callable[[Frontend], Chat]:
    """Return what keeps the choice if the person wants that, fetches the models and opens the chat.

    Its errors say how to go on.

    Args:
        options: what the command line says.
        choice: what the person has chosen.
    """

    def open_chat(frontend: Frontend) -> Chat:
        if choice.is_kept:
            try:
                keep(choice)
            except MemagentError as error:
                frontend.notify(f"The choice is not kept: {error}")
        try:
            return Chat.open(with_choice(options, choice), frontend)
        except ModelError as error:
            raise ModelError(f"{error}\n{WAY_OUT.format(model=choice.model)}") from error

    return open_chat
