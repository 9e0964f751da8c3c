"""memagent doctor: find what is wrong with this installation, and repair it."""

from __future__ import annotations

from typing import Annotated

import typer

from memagent.cli.opening import home, open_beside
from memagent.cli.options import Output, OutputOption
from memagent.cli.rendering.output import as_json, one_line


def doctor(
    mend: Annotated[
        bool,
        typer.Option(
            "--mend",
            help="Repair what can be: file modes, leftover files, damaged stored states (rebuilt at next use).",
        ),
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check the home folder, journals, stored memories, locks, models and versions. Exit code 1 if something is wrong.

    Examples:

      memagent doctor

      memagent doctor --mend
    """
    from memagent.agent.doctor import examine

    findings = list(examine(home(), mend=mend, open_beside=lambda user: open_beside(user, None)))
    if output is Output.JSON:
        as_json(
            [
                {"area": finding.area, "level": finding.level, "said": finding.message, "mend": finding.mend}
                for finding in findings
            ]
        )
    else:
        from rich.text import Text

        from memagent.cli.rendering.console import console

        out = console()
        marks = {"good": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("WRONG", "bold red")}
        for finding in findings:
            mark, style = marks[finding.level]
            out.print(
                Text.assemble((mark, style), one_line(f" {finding.area:<8} {finding.message}")),
                soft_wrap=True,
            )
            if finding.mend:
                out.print(Text(one_line(f"               -> {finding.mend}"), style="dim"), soft_wrap=True)
    raise typer.Exit(1 if any(finding.level == "wrong" for finding in findings) else 0)
