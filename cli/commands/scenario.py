"""memagent scenario: run, list, check, schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import InputError
from memagent.cli.opening import choose_backends, shared_models
from memagent.cli.options import (
    BackendsOption,
    ChannelName,
    ChannelOption,
    EmbedderOption,
    ModelOption,
    Output,
    OutputOption,
    SeedOption,
    SetOption,
)
from memagent.cli.rendering.output import as_json, printable, write

if TYPE_CHECKING:
    from rich.text import Text

    from memagent.agent.evaluation.scenarios import LocatedScenario, ScenarioResult

app = typer.Typer(
    help="Test whether an agent remembers what it should: scenarios in YAML.", no_args_is_help=True
)
FilesArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Scenario files, or folders of *.recall.yaml; by default the suite that ships with memagent.",
        metavar="[FILE]...",
        show_default=False,
    ),
]
TagOption = Annotated[list[str] | None, typer.Option("--tag", help="Only scenarios with this tag.")]


@app.command()
def run(
    files: FilesArgument = None,
    backend: BackendsOption = None,
    isolated: Annotated[
        bool,
        typer.Option("--isolated", help="Play each session in a process of its own: slower, and strict."),
    ] = False,
    recall_only: Annotated[
        bool, typer.Option("--recall-only", help="Load no language model; replies are not judged.")
    ] = False,
    tag: TagOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    channel: ChannelOption = ChannelName.AUTO,
    seed: SeedOption = 0,
    set_: SetOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Play scenarios and judge recollections and replies.

    Each scenario has a temporary home; your memory is not touched. The exit code is 1 if a scenario failed,
    not counting `none`, the control, where it runs beside other memories.

    Examples:

      memagent scenario run

      memagent scenario run my.recall.yaml --backend all --isolated

      memagent scenario run tests/ --recall-only --output json
    """
    from memagent.agent.evaluation.scenarios import Options
    from memagent.agent.evaluation.scenarios import run as run_
    from memagent.agent.evaluation.scenarios.report import fields
    from memagent.agent.models.catalogue import DEFAULT_MODEL
    from memagent.backends.registry import CONTROL
    from memagent.cli.rendering.progress import track

    chosen = choose_backends(backend, set_)
    pairs = [
        (located, name)
        for located in _select(files, tag)
        for name in chosen
        if not located.scenario.backends or name in located.scenario.backends
    ]
    if not pairs:
        raise InputError(f"None of the scenarios is meant for {' or '.join(chosen)}: nothing was played.")
    models = shared_models()
    results = [
        run_(
            located,
            name,
            Options(model or DEFAULT_MODEL, channel.value, chosen[name], recall_only, seed),
            models,
            isolated=isolated,
            progress=track,
        )
        for located, name in track(pairs, total=len(pairs), label="Playing scenarios")
    ]
    if output is Output.JSON:
        as_json({"scenarios": [fields(result) for result in results]})
    else:
        _print(results, list(chosen))
    relevant = [result for result in results if result.backend != CONTROL or len(chosen) == 1]
    if not all(result.passed for result in relevant):
        raise typer.Exit(1)


@app.command("list")
def list_(files: FilesArgument = None, tag: TagOption = None, output: OutputOption = Output.TEXT) -> None:
    """List scenarios: name, tags, file and line, what they show.

    Example:

      memagent scenario list --tag update
    """
    selected = _select(files, tag)
    if output is Output.JSON:
        as_json(
            [
                {
                    "name": located.scenario.name,
                    "about": located.scenario.about,
                    "tags": list(located.scenario.tags),
                    "file": str(located.file),
                    "line": located.line,
                }
                for located in selected
            ]
        )
        return
    from memagent.cli.rendering.console import Table, console

    table = Table("scenario", "tags", "file", "about")
    for located in selected:
        scenario, place = located.scenario, f"{located.file.name}:{located.line}"
        table.add_row(scenario.name, ", ".join(scenario.tags), place, scenario.about)
    console().print(table)


@app.command()
def check(files: FilesArgument = None) -> None:
    """Read scenario files without playing them, and report every mistake with its line.

    Example:

      memagent scenario check my.recall.yaml
    """
    count = len(_select(files, None))
    write(f"{count} scenario{'' if count == 1 else 's'}, no mistakes.")


@app.command()
def schema() -> None:
    """Print the format as JSON Schema, for editors that complete and check YAML.

    Example:

      memagent scenario schema > recall.schema.json
    """
    from memagent.agent.evaluation.scenarios import Scenario

    as_json(Scenario.model_json_schema())


def _select(files: list[Path] | None, tags: list[str] | None) -> list[LocatedScenario]:
    """Read the given files, or the shipped ones, and return the scenarios with any of the tags; InputError if none has."""
    from memagent.agent.evaluation.scenarios import read_all, suite

    scenarios = read_all(files or suite())
    selected = [
        located for located in scenarios if not tags or not set(tags).isdisjoint(located.scenario.tags)
    ]
    if not selected:
        known = sorted({tag for located in scenarios for tag in located.scenario.tags})
        raise InputError(
            f"No scenario has the tag {' or '.join(tags or [])}. Tags: {', '.join(known) or 'none'}."
        )
    return selected


def _print(results: list[ScenarioResult], backends: list[str]) -> None:
    from rich.text import Text

    from memagent.agent.evaluation.scenarios.report import explain
    from memagent.backends.registry import CONTROL
    from memagent.cli.rendering.console import Table, console

    out = console()
    by_place: dict[tuple[str, int], dict[str, ScenarioResult]] = {}
    for result in results:
        by_place.setdefault((result.file, result.line), {})[result.backend] = result
    table = Table("scenario", "file", *backends)
    for (file, line), by_backend in by_place.items():
        name = next(iter(by_backend.values())).name
        cells = [_cell(by_backend.get(backend)) for backend in backends]
        table.add_row(name, f"{Path(file).name}:{line}", *cells)
    out.print(table)
    for result in results:
        if not result.passed and (result.backend != CONTROL or len(backends) == 1):
            out.print()
            out.print(Text(printable(explain(result))), soft_wrap=True)
    out.print()
    for name in backends:
        own = [result for result in results if result.backend == name]
        skipped = sum(not probe.judged for result in own for probe in result.probes)
        out.print(
            f"{name}: {sum(result.passed for result in own)} of {len(own)} scenarios passed"
            + (f"; {skipped} probes expect only a reply and were not judged" if skipped else "")
        )
    if CONTROL in backends and len(backends) > 1:
        out.print(
            Text(f"{CONTROL} remembers nothing: the scenarios that it passes need no memory.", style="dim")
        )


def _cell(result: ScenarioResult | None) -> Text:
    from rich.text import Text

    if result is None:
        return Text("-", style="dim")
    if result.passed:
        return Text("passed", style="green")
    if result.error is not None:
        return Text("stopped", style="red")
    failed = sum(not probe.passed for probe in result.probes)
    return Text.assemble(("failed", "red"), f" {failed}/{len(result.probes)}")
