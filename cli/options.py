"""The options that commands share.

What the command line leaves out comes from the environment, then from the settings file, then from the default here.
"""

from __future__ import annotations

from contextvars import ContextVar
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memagent.cli import completion

if TYPE_CHECKING:
    from memagent.agent.settings import UserSettings

DEFAULT_USER = "default"
DEFAULT_BACKEND = "rag"
MAX_INTEGER = 2**63 - 1
"""The largest whole number that databases and random generators take."""


class Output(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


class ChannelName(StrEnum):
    """How memory reaches the model."""

    AUTO = "auto"
    TEXT = "text"
    MODEL = "model"
    BOTH = "both"


def user_settings() -> UserSettings:
    """Read the environment and the settings file.

    Raises:
        SettingError: one of them has a value that does not fit.
    """
    from memagent.agent.settings import UserSettings

    return UserSettings.load()


def from_settings(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Return the settings' value of an option that neither the command line nor the environment gives.

    The file is read here and not earlier, so that ``--help`` works with a damaged one.
    """
    source = context.get_parameter_source(parameter.name or "")
    if context.resilient_parsing or source is None or source.name != "DEFAULT":
        return value
    setting = getattr(user_settings(), parameter.name or "")
    if parameter.name == "channel":
        return ChannelName(setting)
    return [setting] if parameter.multiple else setting


_embedder: ContextVar[str | None] = ContextVar("embedder", default=None)


def use_embedder(value: str | None) -> str | None:
    """Note the running command's ``--embedder``, so that commands need not hand it on to all they open."""
    _embedder.set(value)
    return value


def checked_embedder(context: typer.Context, value: str | None) -> str | None:
    """Refuse an unknown embedder before the command does anything; note one that is known.

    Raises:
        NotFoundError, SettingError: the name is not one that ``load_embedder`` takes.
    """
    if value and not context.resilient_parsing:
        from memagent.agent.models.embedding import embedder_names

        embedder_names(value)
    return use_embedder(value)


def chosen_embedder() -> str:
    """Return the embedder of the running command: its ``--embedder``, the environment, the settings file, or the default.

    Raises:
        SettingError: see ``user_settings``.
    """
    return _embedder.get() or user_settings().embedder


UserOption = Annotated[
    str,
    typer.Option(
        "--user",
        "-u",
        envvar="MEMAGENT_USER",
        help="Whose memory it is.",
        callback=from_settings,
        autocompletion=completion.users,
    ),
]
BackendOption = Annotated[
    str,
    typer.Option(
        "--backend",
        "-b",
        envvar="MEMAGENT_BACKEND",
        help="Which memory; `memagent backends` lists them.",
        callback=from_settings,
        autocompletion=completion.backends,
    ),
]
BackendsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        "-b",
        envvar="MEMAGENT_BACKEND",
        help="Which memory, or all; may be given several times. [default: rag]",
        show_default=False,
        callback=from_settings,
        autocompletion=completion.backends_or_all,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="MEMAGENT_MODEL",
        help="A chat model of `memagent models list`, a path, a hub id, provider:model, or echo. "
        "[default: qwen2.5-coder-0.5b]",
        callback=from_settings,
        autocompletion=completion.chat_models,
    ),
]
EmbedderOption = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        envvar="MEMAGENT_EMBEDDER",
        help="Turns texts into vectors: an embedder of `memagent models list`, multilingual, hashing, a folder, a hub id, "
        "provider:model, or several joined by +. [default: all-minilm-l6-v2]",
        show_default=False,
        callback=checked_embedder,
        autocompletion=completion.embedders,
    ),
]
ChannelOption = Annotated[
    ChannelName,
    typer.Option(envvar="MEMAGENT_CHANNEL", help="How memory reaches the model.", callback=from_settings),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the backend; may be given several times."),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for scripts.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=MAX_INTEGER, help="For everything random in a memory.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SessionArgument = Annotated[
    str, typer.Argument(help="The session's name.", autocompletion=completion.sessions)
]
BackendArgument = Annotated[str, typer.Argument(help="A backend's name.", autocompletion=completion.backends)]
