"""memagent config: show, set, unset, path."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.cli import completion
from memagent.cli.inputs import require_utf8
from memagent.cli.options import (
    DEFAULT_BACKEND,
    DEFAULT_USER,
    BackendOption,
    ChannelName,
    ChannelOption,
    ModelOption,
    Output,
    OutputOption,
    UserOption,
    user_settings,
)
from memagent.cli.rendering.output import as_json, say, write

if TYPE_CHECKING:
    from memagent.agent.settings_file import Key

app = typer.Typer(
    help="Show and change the settings file, which holds what you would give as options each time.",
    invoke_without_command=True,
)
KeyArgument = Annotated[
    str,
    typer.Argument(
        help="user, backend, model, embedder, channel, home, models, journal or backends.NAME.SETTING.",
        metavar="KEY",
        autocompletion=completion.setting_keys,
    ),
]


@app.callback()
def bare(context: typer.Context) -> None:
    """Show and change the settings file, which holds what you would give as options each time.

    A value on the command line comes before the environment, the environment before the file, the file before the
    default.
    """
    if context.invoked_subcommand is None:
        _print(_rows({}), Output.TEXT)


@app.command()
def show(
    context: typer.Context,
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    model: ModelOption = None,
    channel: ChannelOption = ChannelName.AUTO,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print each setting, its value, and where the value comes from: option, environment, file or default.

    Examples:

      memagent config show

      memagent config show --user ana --output json
    """
    values: dict[str, str | None] = {
        "user": user,
        "backend": backend,
        "model": model,
        "channel": channel.value,
    }
    sources = {name: context.get_parameter_source(name) for name in values}
    option_values: dict[Key, str | None] = {
        (name,): value
        for name, value in values.items()
        if (source := sources[name]) is not None and source.name == "COMMANDLINE"
    }
    _print(_rows(option_values), output)


@app.command("set")
def set_(
    key: KeyArgument,
    value: Annotated[str, typer.Argument(help="The new value.", metavar="VALUE")],
) -> None:
    """Write one setting to the settings file, which is made if it is not there. The rest of the file stays as it is.

    Examples:

      memagent config set user ana

      memagent config set backends.rag.abstain false
    """
    from memagent.agent.settings import parse_key, parse_value, variable
    from memagent.agent.settings_file import settings_path, write_value

    parsed, path = parse_key(require_utf8(key, "The key")), settings_path()
    write_value(path, parsed, parse_value(parsed, require_utf8(value, "The value")))
    write(f"Set {key} in {path}.")
    if os.environ.get(variable(parsed)):
        say(f"The environment variable {variable(parsed)} is set and comes before the file.")


@app.command()
def unset(key: KeyArgument) -> None:
    """Remove one setting from the settings file, so that its default holds again.

    Examples:

      memagent config unset user

      memagent config unset backends.rag.abstain
    """
    from memagent.agent.settings_file import settings_path, write_value

    path = settings_path()
    if write_value(path, tuple(require_utf8(key, "The key").split(".")), None):
        write(f"Removed {key} from {path}.")
    else:
        write(f"{path} does not set {key}; nothing was changed.")


@app.command()
def path() -> None:
    """Print the path of the settings file, which need not exist. MEMAGENT_CONFIG names another file.

    Example:

      memagent config path
    """
    from memagent.agent.settings_file import settings_path

    write(str(settings_path()))


def _rows(option_values: dict[Key, str | None]) -> list[dict[str, str | None]]:
    """Return the settings as rows: key, value, source and place.

    Args:
        option_values: values of options on the command line.
    """
    from memagent.agent.home import Home, without_password
    from memagent.agent.settings import environment_keys, file_keys, variable
    from memagent.agent.settings_file import settings_path

    settings = user_settings()
    home = Home.from_settings(settings)
    values: dict[Key, str | None] = {
        **settings.values(),
        ("home",): str(home.root),
        ("models",): str(home.models),
        ("journal",): without_password(home.journal_url) if home.journal_url else None,
        **option_values,
    }
    in_environment, in_file = environment_keys(), file_keys()
    rows = []
    for key, value in values.items():
        source, place = "default", ""
        if key in option_values:
            source, place = "option", f"--{key[0]}"
        elif key in in_environment:
            source, place = "environment", variable(key)
        elif key in in_file:
            source, place = "file", str(settings_path())
        rows.append({"key": ".".join(key), "value": value, "source": source, "place": place})
    return rows


def _print(rows: list[dict[str, str | None]], output: Output) -> None:
    if output is Output.JSON:
        as_json(rows)
        return
    from memagent.cli.rendering.console import Table, console

    table = Table("setting", "value", "from", "")
    for row in rows:
        table.add_row(row["key"], row["value"] or "-", row["source"], row["place"])
    console().print(table)
