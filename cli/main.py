"""The ``memagent`` command. Each command imports what it needs when it runs, so that --help is instant."""

from __future__ import annotations

import io
import os
import sys

import typer

from memagent.backends.errors import MemagentError
from memagent.cli import backends, bench, chat, doctor, memory, models, scenario, sessions

app = typer.Typer(
    name="memagent",
    help="Chat with a language model that remembers across sessions, with a choice of memories.",
    epilog="Begin with: memagent chat",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("chat")(chat.chat)
app.command("remember")(memory.remember)
app.command("recall")(memory.recall)
app.command("forget")(memory.forget)
app.add_typer(sessions.app, name="sessions")
app.command("export")(memory.export)
app.command("import")(memory.import_)
app.command("backup")(memory.backup)
app.command("accept-loss")(memory.accept_loss)
app.add_typer(backends.app, name="backends")
app.add_typer(models.app, name="models")
app.add_typer(scenario.app, name="scenario")
app.command("bench", cls=bench.PlotCommand)(bench.bench)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from memagent import __version__

        typer.echo(f"memagent {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Chat with a language model that remembers across sessions, with a choice of memories."""


def main() -> None:
    """Run a command: errors meant for people go to stderr as one line, with exit code 1."""
    os.umask(0o077)  # memory is private
    if isinstance(sys.stdout, io.TextIOWrapper):  # journals hold any text, terminals may not show it
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except MemagentError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
