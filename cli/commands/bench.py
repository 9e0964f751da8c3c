"""memagent bench: public memory benchmarks, locomo and longmemeval."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from memagent.cli.opening import choose_backends, home, shared_models
from memagent.cli.options import (
    MAX_INTEGER,
    BackendsOption,
    ChannelName,
    ChannelOption,
    EmbedderOption,
    ModelOption,
    Output,
    OutputOption,
    SetOption,
)
from memagent.cli.rendering.output import as_json, say

if TYPE_CHECKING:
    from memagent.agent.evaluation.run import Plan, Run
    from memagent.agent.models.models import Models


class Benchmark(StrEnum):
    """Which benchmark the file belongs to."""

    LOCOMO = "locomo"
    LONGMEMEVAL = "longmemeval"


class PlotCommand(TyperCommand):
    """Accepts ``--plot`` without a file name, which Typer's options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the benchmark's name as a file name after a ``--plot`` that has none."""
        if "--plot" in args:
            after = args.index("--plot") + 1
            if after == len(args) or args[after].startswith("-") or args[after].endswith(".json"):
                name = next((word for word in args if word in list(Benchmark)), "benchmark")
                args = [*args[:after], f"{name}.png", *args[after:]]
        return super().parse_args(ctx, args)


PathArgument = Annotated[
    Path, typer.Argument(help="The benchmark's file, as it is published.", metavar="PATH")
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="[FILE]",
        help="Draw the comparison: a .png, .svg or .pdf file. Needs the extra `plot`.",
        show_default=False,
    ),
]
SampleOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=MAX_INTEGER, help="Ask only this many questions, drawn by --seed.", show_default=False
    ),
]
AnswersOption = Annotated[
    bool, typer.Option("--answers", help="Let the model answer too, and measure token-F1: slow.")
]
SeedOption = Annotated[
    int, typer.Option(min=0, max=MAX_INTEGER, help="For the sample and everything random in a memory.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Start over instead of continuing an interrupted run.")
]


def bench(
    name: Annotated[Benchmark, typer.Argument(help="Which benchmark it is.", metavar="locomo|longmemeval")],
    path: PathArgument,
    backend: BackendsOption = None,
    plot: PlotOption = None,
    sample: SampleOption = None,
    answers: AnswersOption = False,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    channel: ChannelOption = ChannelName.AUTO,
    seed: SeedOption = 0,
    fresh: FreshOption = False,
    set_: SetOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Measure memories on a public benchmark, beside the memory bm25 and two baselines.

    locomo: long conversations of two people. Evidence recall counts the answerable questions,
    categories 1 to 4; category 5 measures abstention. longmemeval: a question about some 50 sessions
    with an assistant (S) or 500 (M); those whose id ends in _abs measure abstention. The baselines are a
    random order (chance) and BM25 over whole sessions (bm25_sessions).

    Writes to the folder bench in MEMAGENT_HOME; your own memories are not touched. An interrupted run
    continues when the same command is given again.

    Examples:

      memagent bench locomo locomo10.json --backend all --plot

      memagent bench longmemeval longmemeval_s.json --sample 50 --output json
    """
    chosen = choose_backends(backend, set_)
    from memagent.agent.evaluation.datasets import LOADERS
    from memagent.agent.evaluation.report import summarise
    from memagent.agent.evaluation.run import Plan, Run
    from memagent.agent.models.catalogue import DEFAULT_MODEL

    if plot is not None:
        from memagent.agent.evaluation.plot import check_matplotlib, check_path

        check_path(plot)
        check_matplotlib()
    dataset = LOADERS[name.value](path)
    models = shared_models()
    vectors = models.embedder()
    plan = Plan(
        dataset,
        chosen,
        f"{vectors.name} {vectors.digest[:16]}",
        seed,
        sample,
        answers,
        model or DEFAULT_MODEL,
        channel.value,
    )
    with Run(plan, home().root / "bench", fresh=fresh) as run:
        _measure(plan, run, models)
        summary = summarise(run, dataset.reported_categories)
        run.finish(summary.fields())
    if output is Output.JSON:
        as_json(summary.fields())
    else:
        from memagent.cli.rendering.tables import print_benchmark

        print_benchmark(summary)
        say(f"Every measurement: {run.folder}")
    if plot is not None:
        from memagent.agent.evaluation.plot import plot as draw

        draw(summary, plot)
        say(f"Drew {plot}.")


def _measure(plan: Plan, run: Run, models: Models) -> None:
    """Measure what the run does not have yet, with a progress bar; rows go to the run's folder."""
    from memagent.agent.evaluation.measure import count_steps, measure
    from memagent.cli.rendering.progress import track

    if run.resumed:
        say(
            f"Continuing the run begun at {run.manifest.begun}: {run.resumed:,} measurements are there. "
            "--fresh starts over."
        )
    for _ in track(
        measure(plan, run, models), total=count_steps(plan), label=f"Measuring on {plan.dataset.name}"
    ):
        pass
