"""The ``memagent`` command. Each command imports what it needs when it runs, so that --help is fast."""

from __future__ import annotations

import os
import sys

import typer

from memagent.backends.errors import MemagentError
from memagent.cli.commands import (
    backends,
    bench,
    chat,
    config,
    doctor,
    editing,
    imports,
    journal,
    keys,
    mcp,
    memory,
    models,
    scenario,
    serve,
    sessions,
)
from memagent.cli.options import use_embedder
from memagent.cli.rendering import output

# click's UsageError, of which newer versions of typer hold a copy that has no public name.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

# Set by the shell while it asks for completions.
_COMPLETION = "_MEMAGENT_COMPLETE"

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
app.command("correct")(editing.correct)
app.command("pin")(editing.pin)
app.command("unpin")(editing.unpin)
app.add_typer(sessions.app, name="sessions")
app.command("export")(journal.export)
app.command("import")(imports.import_)
app.command("backup")(journal.backup)
app.command("accept-loss")(journal.accept_loss)
app.add_typer(backends.app, name="backends")
app.add_typer(models.app, name="models")
app.add_typer(scenario.app, name="scenario")
app.command("bench", cls=bench.PlotCommand)(bench.bench)
app.add_typer(config.app, name="config")
app.command("doctor")(doctor.doctor)
app.command("mcp")(mcp.mcp)
app.command("serve")(serve.serve)
app.add_typer(keys.app, name="keys")


def _print_version(requested: bool) -> None:
    if requested:
        from memagent import __version__

        output.write(f"memagent {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Chat with a language model that remembers across sessions, with a choice of memories."""
    use_embedder(None)  # a process may run several commands


def main() -> None:
    """Run a command and exit: 0 after success, 1 after an error, 2 after a usage error, 130 after Ctrl+C."""
    os.umask(0o077)  # memory is private
    output.prepare_streams()
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(prog_name="memagent", standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        output.say("Aborted.")
        return 1
    except KeyboardInterrupt:
        return 130
    except MemagentError as error:
        output.report_error(error)
        return 1
    except _USAGE_ERROR as error:
        output.report_usage(error)
        return 2
    except Exception as error:  # noqa: BLE001 - it may hold unsafe characters
        if _COMPLETION not in os.environ:  # a shell would print it into the line that is being typed
            output.report_fault(error)
        return 1
    return code or 0  # a number where the command raised typer.Exit or was interrupted


if __name__ == "__main__":
    main()
