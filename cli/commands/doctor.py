"""memagent doctor: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

from typing import Annotated

import typer

from memagent.cli.opening import Output, OutputOption, home
from memagent.cli.rendering.output import as_json, one_line


def doctor(
    mend: Annotated[
        bool,
        typer.Option(
            "--mend",
            help="Mend what can be: file modes, leftovers, damaged stored states (rebuilt at next use).",
        ),
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check the home folder, journals, stored memories, locks, models and versions. Exit code 1 if something is wrong."""
    from memagent.agent.doctor import examine

    found = list(examine(home(), mend=mend))
    if output is Output.JSON:
        as_json(
            [{"area": one.area, "level": one.level, "said": one.message, "mend": one.mend} for one in found]
        )
    else:
        from rich.text import Text

        from memagent.cli.rendering.console import console

        out = console()
        marks = {"good": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("WRONG", "bold red")}
        for one in found:
            mark, style = marks[one.level]
            out.print(Text.assemble((mark, style), one_line(f" {one.area:<8} {one.message}")), soft_wrap=True)
            if one.mend:
                out.print(Text(one_line(f"               -> {one.mend}"), style="dim"), soft_wrap=True)
    raise typer.Exit(1 if any(one.level == "wrong" for one in found) else 0)
