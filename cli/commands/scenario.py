"""memagent scenario: run, list, check, schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import InputError
from memagent.cli.opening import choose_backends, home
from memagent.cli.options import (
    BackendsOption,
    ChannelName,
    ChannelOption,
    ModelOption,
    Output,
    OutputOption,
    SeedOption,
    SetOption,
    user_settings,
)
from memagent.cli.rendering.output import as_json, printable, say, write

if TYPE_CHECKING:
    from rich.text import Text

    from memagent.agent.evaluation.scenarios import Located, ScenarioResult

app = typer.Typer(
    help="Write down what an agent should remember, and see whether it does.", no_args_is_help=True
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
        bool, typer.Option("--isolated", help="Each session in a process of its own: slower, and strict.")
    ] = False,
    recall_only: Annotated[
        bool, typer.Option("--recall-only", help="Ask no language model; replies are not judged.")
    ] = False,
    tag: TagOption = None,
    model: ModelOption = None,
    channel: ChannelOption = ChannelName.AUTO,
    seed: SeedOption = 0,
    set_: SetOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Play scenarios and judge what was recalled and answered.

    Each is played in a home of its own; your memory is not touched. The exit code is 1 if one failed,
    not counting `none`, the control, where it runs beside other memories.

    Examples:

      memagent scenario run

      memagent scenario run my.recall.yaml --backend all --isolated

      memagent scenario run tests/ --recall-only --output json
    """
    from memagent.agent.evaluation.scenarios import Models, Options
    from memagent.agent.evaluation.scenarios import run as run_
    from memagent.agent.evaluation.scenarios.report import fields
    from memagent.agent.models.catalogue import DEFAULT_MODEL
    from memagent.backends.registry import CONTROL
    from memagent.cli.rendering.progress import bytes_reporter, track

    chosen = choose_backends(backend, set_)
    pairs = [
        (one, name)
        for one in _selected(files, tag)
        for name in chosen
        if not one.scenario.backends or name in one.scenario.backends
    ]
    if not pairs:
        raise InputError(f"None of the scenarios is meant for {' or '.join(chosen)}: nothing was played.")
    models = Models.shared(home().models, user_settings().embedder, notify=say, report=bytes_reporter())
    results = [
        run_(
            one,
            name,
            Options(model or DEFAULT_MODEL, channel.value, chosen[name], recall_only, seed),
            models,
            isolated=isolated,
            progress=track,
        )
        for one, name in track(pairs, total=len(pairs), label="Playing scenarios")
    ]
    if output is Output.JSON:
        as_json({"scenarios": [fields(result) for result in results]})
    else:
        _print(results, list(chosen))
    counted = [result for result in results if result.backend != CONTROL or len(chosen) == 1]
    if not all(result.passed for result in counted):
        raise typer.Exit(1)


@app.command("list")
def list_(files: FilesArgument = None, tag: TagOption = None, output: OutputOption = Output.TEXT) -> None:
    """List scenarios: name, tags, where they stand, what they show.

    Example:

      memagent scenario list --tag update
    """
    found = _selected(files, tag)
    if output is Output.JSON:
        as_json(
            [
                {
                    "name": one.scenario.name,
                    "about": one.scenario.about,
                    "tags": list(one.scenario.tags),
                    "file": str(one.file),
                    "line": one.line,
                }
                for one in found
            ]
        )
        return
    from memagent.cli.rendering.console import Table, console

    table = Table("scenario", "tags", "file", "about")
    for one in found:
        story = one.scenario
        table.add_row(story.name, ", ".join(story.tags), f"{one.file.name}:{one.line}", story.about)
    console().print(table)


@app.command()
def check(files: FilesArgument = None) -> None:
    """Read scenario files without playing them; every mistake is named with its line.

    Example:

      memagent scenario check my.recall.yaml
    """
    found = _selected(files, None)
    write(f"{len(found)} scenario{'' if len(found) == 1 else 's'}, no mistakes.")


@app.command()
def schema() -> None:
    """Print the format as JSON Schema, for editors that complete and check YAML.

    Example:

      memagent scenario schema > recall.schema.json
    """
    from memagent.agent.evaluation.scenarios import Scenario

    as_json(Scenario.model_json_schema())


def _selected(files: list[Path] | None, tags: list[str] | None) -> list[Located]:
    from memagent.agent.evaluation.scenarios import read_all, suite

    found = read_all(files or suite())
    fitting = [one for one in found if not tags or not set(tags).isdisjoint(one.scenario.tags)]
    if not fitting:
        known = sorted({tag for one in found for tag in one.scenario.tags})
        raise InputError(
            f"No scenario has the tag {' or '.join(tags or [])}. Tags: {', '.join(known) or 'none'}."
        )
    return fitting


def _print(results: list[ScenarioResult], backends: list[str]) -> None:
    from rich.text import Text

    from memagent.agent.evaluation.scenarios.report import explain
    from memagent.backends.registry import CONTROL
    from memagent.cli.rendering.console import Table, console

    on = console()
    by_place: dict[tuple[str, int], dict[str, ScenarioResult]] = {}
    for result in results:
        by_place.setdefault((result.file, result.line), {})[result.backend] = result
    table = Table("scenario", "file", *backends)
    for (file, line), found in by_place.items():
        name = next(iter(found.values())).name
        cells = [_cell(found.get(backend)) for backend in backends]
        table.add_row(name, f"{Path(file).name}:{line}", *cells)
    on.print(table)
    for result in results:
        if not result.passed and (result.backend != CONTROL or len(backends) == 1):
            on.print()
            on.print(Text(printable(explain(result))), soft_wrap=True)
    on.print()
    for name in backends:
        own = [result for result in results if result.backend == name]
        skipped = sum(not probe.judged for result in own for probe in result.probes)
        on.print(
            f"{name}: {sum(result.passed for result in own)} of {len(own)} scenarios passed"
            + (f"; {skipped} probes only judge replies and were not judged" if skipped else "")
        )
    if CONTROL in backends and len(backends) > 1:
        on.print(Text(f"{CONTROL} remembers nothing: what it passes needs no memory.", style="dim"))


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
