"""memagent backends: list, show, rebuild, train, consolidate, stats."""

from __future__ import annotations

import sys
from dataclasses import MISSING, asdict, fields
from typing import Annotated, Any, get_type_hints

import typer

from memagent.cli.opening import backend_settings, home, open_memory, require_user, shared_models
from memagent.cli.options import (
    DEFAULT_USER,
    BackendArgument,
    EmbedderOption,
    ModelOption,
    Output,
    OutputOption,
    SetOption,
    UserOption,
    YesOption,
    user_settings,
)
from memagent.cli.rendering.output import as_json, confirm, one_line, say, write

app = typer.Typer(
    help="List memories, show their settings and contents, rebuild and consolidate them.",
    invoke_without_command=True,
)


@app.callback()
def bare(context: typer.Context) -> None:
    """List memories, show their settings and contents, rebuild and consolidate them."""
    if context.invoked_subcommand is None:
        list_(Output.TEXT)


@app.command("list")
def list_(output: OutputOption = Output.TEXT) -> None:
    """List the installed memories and what each can do.

    Example:

      memagent backends list --output json
    """
    from memagent.backends import registry
    from memagent.backends.errors import MemagentError

    rows: dict[str, dict[str, Any]] = {}
    for name in registry.names():
        try:
            backend = registry.get(name)
            rows[name] = {**asdict(registry.capabilities(backend)), "about": _first_line(backend)}
        except MemagentError as error:
            rows[name] = {"about": str(error)}
    if output is Output.JSON:
        as_json([{"backend": name, **row} for name, row in rows.items()])
        return
    from memagent.cli.rendering.console import Table, console

    table = Table("backend", "can", "needs", "about")
    for name, row in rows.items():
        can = [
            word.replace("_", " ")
            for word, yes in row.items()
            if yes is True and not word.startswith("needs_")
        ]
        needs = [
            word.removeprefix("needs_").replace("_", " ")
            for word, yes in row.items()
            if yes is True and word.startswith("needs_")
        ]
        table.add_row(name, ", ".join(can) or "-", ", ".join(needs) or "-", row["about"])
    console().print(table)


@app.command()
def show(name: BackendArgument, output: OutputOption = Output.TEXT) -> None:
    """Describe a memory and its settings, for --set and for `memagent config set`.

    Example:

      memagent backends show rag
    """
    from memagent.backends import registry

    backend = registry.get(name)
    hints = get_type_hints(backend.Config)
    settings = [
        {
            "setting": field.name,
            "type": _type_name(hints[field.name]),
            "default": None if field.default is MISSING else field.default,
        }
        for field in fields(backend.Config)
    ]
    if output is Output.JSON:
        as_json(
            {"backend": name, "capabilities": asdict(registry.capabilities(backend)), "settings": settings}
        )
        return
    write(f"{name}: {backend.__doc__ or ''}\n")
    write(backend.Config.__doc__ or "")
    for row in settings:
        write(f"  --set {row['setting']}={row['default']}    ({row['type']})")


@app.command()
def rebuild(
    name: BackendArgument,
    user: UserOption = DEFAULT_USER,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
) -> None:
    """Discard a memory's stored state and rebuild it from the whole journal.

    Example:

      memagent backends rebuild rag
    """
    require_user(home(), user)
    with open_memory(user, name, set_, model=model, fresh=True) as memory:
        memory.checkpoint()
        turns = memory.journal.count()
    write(f"Rebuilt {name} from {turns} turns.")


@app.command()
def train(
    name: BackendArgument,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    yes: YesOption = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Train the weights that a memory needs for a model; says first how long it takes.

    Examples:

      memagent backends train rope_map

      memagent backends train rope_map --model smollm2-135m --yes
    """
    from memagent.agent.memory.training import open_training
    from memagent.cli.rendering.progress import track

    with open_training(
        home(),
        shared_models(),
        name,
        backend_settings(name, set_),
        model=model or user_settings().model,
        progress=track,
    ) as training:
        plan = training.plan
        if not plan.done:
            say(
                f"{plan.summary} About {max(1, round(plan.minutes))} min here; it writes {plan.bytes / 1e6:.1f} MB. "
                + ("Interrupted, it continues." if plan.resumable else "Interrupted, it starts again.")
            )
            if not yes and sys.stdin.isatty() and not confirm("Start?"):
                raise typer.Exit(1)
            training.run()
    if output is Output.JSON:
        as_json({"backend": name, "trained": not plan.done, **asdict(plan)})
    else:
        write("It is trained already." if plan.done else f"Trained {name}.")


@app.command()
def consolidate(
    name: BackendArgument,
    user: UserOption = DEFAULT_USER,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Consolidate a memory: merge, compact, and drop what is superseded. Shows what merged with what, and why.

    Examples:

      memagent backends consolidate rope_map --user ana

      memagent backends consolidate context_bank --output json
    """
    from memagent.cli.rendering.pictures import print_pictures

    require_user(home(), user)
    with open_memory(user, name, set_, model=model) as memory:
        report = memory.consolidate()
    if output is Output.JSON:
        as_json(asdict(report))
        return
    write(f"{report.summary} ({report.before} items before, {report.after} after)")
    print_pictures(report.pictures)


@app.command()
def stats(
    name: BackendArgument,
    user: UserOption = DEFAULT_USER,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    output: OutputOption = Output.TEXT,
    pictures: Annotated[bool, typer.Option("--pictures", help="Show its pictures as tables, too.")] = False,
) -> None:
    """Show how much a memory holds, and its size on disk and in memory.

    Examples:

      memagent backends stats rag --output json

      memagent backends stats context_bank --pictures
    """
    from memagent.cli.rendering.pictures import print_pictures

    require_user(home(), user)
    with open_memory(user, name, set_, model=model, read_only=True) as memory:
        memory_stats = memory.stats()
        # Its figures are shown already.
        drawn = [picture for picture in memory.picture() if picture.title != name] if pictures else []
        position = memory.position
        unfinished = memory.journal.unfinished()
    rows = {
        "backend": name,
        "user": user,
        "turns_read_up_to": position.seq,
        "items": memory_stats.items,
        "tokens": memory_stats.tokens,
        "bytes_on_disk": memory_stats.bytes_on_disk,
        "bytes_in_memory": memory_stats.bytes_in_memory,
        **memory_stats.extras,
        **(
            {"unfinished_forgetting": [item.backend or "journal" for item in unfinished]}
            if unfinished
            else {}
        ),
    }
    if output is Output.JSON:
        as_json(rows | ({"pictures": [asdict(picture) for picture in drawn]} if pictures else {}))
        return
    for key, value in rows.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        write(one_line(f"{key.replace('_', ' '):>18}  {shown}"))
    print_pictures(drawn)


def _type_name(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint))


def _first_line(backend: type) -> str:
    return (backend.__doc__ or "").strip().splitlines()[0]
