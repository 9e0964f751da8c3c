"""memagent models: list, pull, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import MemagentError
from memagent.cli import completion
from memagent.cli.opening import home
from memagent.cli.options import Output, OutputOption
from memagent.cli.rendering.output import as_json, one_line, say, write

if TYPE_CHECKING:
    from pathlib import Path

    from memagent.agent.models.catalogue import CatalogueModel

app = typer.Typer(help="List, fetch and verify the pinned models.", invoke_without_command=True)


@app.callback()
def bare(context: typer.Context) -> None:
    """List, fetch and verify the pinned models."""
    if context.invoked_subcommand is None:
        list_(Output.TEXT)


@app.command("list")
def list_(output: OutputOption = Output.TEXT) -> None:
    """List the catalogue, and which of its models are on this machine.

    Example:

      memagent models list
    """
    from memagent.agent.models.catalogue import CATALOGUE

    models = home().models
    rows = [
        {
            "model": model.name,
            "kind": model.kind,
            "megabytes": round(model.size / 1e6),
            "here": _present(model, models),
            "licence": model.licence,
            "about": model.about,
        }
        for model in CATALOGUE.values()
    ]
    if output is Output.JSON:
        as_json(rows)
        return
    from memagent.cli.rendering.console import Table, console

    table = Table()
    for heading in rows[0]:
        table.add_column(heading, justify="right" if heading == "megabytes" else "left")
    for row in rows:
        table.add_row(
            *("yes" if cell is True else "no" if cell is False else str(cell) for cell in row.values())
        )
    console().print(table)
    write(
        f"\nKept in {one_line(str(models))}. Any path, hub id (owner/name) or provider:model works after --model too."
    )


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(help="A catalogue name.", autocompletion=completion.catalogue_models)
    ],
) -> None:
    """Fetch a model and verify every byte. An interrupted pull continues where it stopped.

    Example:

      memagent models pull qwen2.5-coder-1.5b
    """
    from memagent.agent.models.catalogue import find
    from memagent.agent.models.convert import ensure_converted
    from memagent.agent.models.hub import ensure
    from memagent.agent.models.loader import transformers_folder
    from memagent.cli.rendering.progress import bytes_reporter

    model, models = find(name), home().models
    folder = ensure(model, models, notify=say, report=bytes_reporter())
    if model.kind == "chat":
        weights = model.weights
        ensure_converted(
            folder / weights.name, weights.sha256, transformers_folder(model, models), notify=say
        )
    write(f"{name} is here and verified: {folder}")


@app.command()
def verify(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A catalogue name; if left out, all models on this machine.",
            autocompletion=completion.catalogue_models,
        ),
    ] = None,
) -> None:
    """Verify every byte of the models on this machine.

    Example:

      memagent models verify
    """
    from memagent.agent.models.catalogue import CATALOGUE, find
    from memagent.agent.models.convert import find_damage
    from memagent.agent.models.hub import check
    from memagent.agent.models.loader import transformers_folder

    models = home().models
    chosen = [find(name)] if name else [model for model in CATALOGUE.values() if _present(model, models)]
    failures = 0
    for model in chosen:
        try:
            for file in model.files:
                check(model.folder(models) / file.name, file, model.name, thorough=True)
            ready = transformers_folder(model, models)
            if ready.exists() and (problem := find_damage(ready, model.weights.sha256, thorough=True)):
                say(
                    f"{model.name}: the converted form is damaged ({problem}). "
                    f"Remove {ready}; it is made again when the model is next used."
                )
                failures += 1
                continue
            write(f"{model.name}: every byte is right.")
        except MemagentError as error:
            say(str(error))
            failures += 1
    if not chosen:
        write("No model is here yet; `memagent models pull NAME` fetches one.")
    raise typer.Exit(1 if failures else 0)


def _present(model: CatalogueModel, models: Path) -> bool:
    """Return whether all files of a model are in its folder; their bytes are not checked."""
    return all((model.folder(models) / file.name).exists() for file in model.files)
