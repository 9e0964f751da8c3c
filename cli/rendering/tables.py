"""A benchmark's result as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from memagent.backends.registry import CONTROL
from memagent.cli.rendering.console import Console, Table, console
from memagent.cli.rendering.output import one_line

if TYPE_CHECKING:
    from memagent.agent.evaluation.report import Cost, Difference, Level, Result, Summary

# Where even a random order finds this share, a figure says little.
_HIGH_CHANCE = 0.5


def print_benchmark(summary: Summary) -> None:
    """Print evidence recall by level, by category, abstention, cost, and how sure the differences are."""
    from memagent.agent.evaluation.report import LEVELS

    out = console()
    manifest = summary.manifest
    data = manifest.data
    out.print(
        Text(
            f"{manifest.benchmark}, {one_line(data.file)}: {data.cases} conversations, {data.turns:,} turns; "
            f"{manifest.embedder.split()[0]} embeddings, seed {manifest.seed}",
            style="bold",
        )
    )
    for level in LEVELS:
        results = [result for result in summary.results if result.level == level]
        if results[0].total.questions:
            _print_level(out, level, results, summary.differences)
    turn_results = [result for result in summary.results if result.level == "turn"]
    _print_categories(out, turn_results)
    _print_costs(out, turn_results)
    _print_differences(out, summary.differences)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _print_level(
    out: Console, level: Level, results: Sequence[Result], differences: Sequence[Difference]
) -> None:
    from memagent.agent.evaluation.baselines import BASELINES
    from memagent.agent.evaluation.report import AGAINST, HEADLINE

    chance, categories = results[0].total, results[0].categories
    against = AGAINST[level]
    intervals = {
        difference.backend: difference
        for difference in differences
        if difference.level == level and difference.against == against
    }
    named = "all categories" if categories == "all" else f"categories {categories}"
    title = f"\nEvidence {level}s found, {chance.questions} questions ({named})"
    metrics = [f"recall@{k}" for k in chance.recall]
    high = [k for k, expected in chance.recall.items() if expected is not None and expected > _HIGH_CHANCE]
    table = _table(title, ["", *metrics, "MRR", f"{HEADLINE} against {against}"])
    for result in results:
        table.add_row(
            Text(result.backend, style="dim" if result.backend in (*BASELINES, against, CONTROL) else ""),
            *(
                Text(_number(mean), style="dim" if k in high else "")
                for k, mean in result.total.recall.items()
            ),
            _number(result.mrr),
            _interval(intervals.get(result.backend)),
        )
    out.print(table)
    if high:
        names = " and ".join(f"recall@{k}" for k in high)
        out.print(Text(f"  {names}: k is near the number of {level}s, see chance.", style="dim"))


def _print_categories(out: Console, results: Sequence[Result]) -> None:
    from memagent.agent.evaluation.report import HEADLINE, HEADLINE_K

    names = list(results[0].by_category)
    if len(names) < 2:
        return
    table = _table(f"\n{HEADLINE} of turns by category id", ["", *names])
    for result in results:
        means = (result.by_category[name].recall[HEADLINE_K] for name in names)
        table.add_row(result.backend, *map(_number, means))
    counts = (str(results[0].by_category[name].questions) for name in names)
    table.add_row(Text("questions", style="dim"), *(Text(count, style="dim") for count in counts))
    out.print(table)


def _print_costs(out: Console, results: Sequence[Result]) -> None:
    with_cost = [(result, result.cost) for result in results if result.cost is not None]
    answered = any(result.answers for result in results)
    table = _table(
        "\nCost, and abstention where nothing is relevant",
        [
            "",
            "write ms/turn",
            "recall ms",
            "p95",
            "bytes/turn",
            "model calls/turn",
            "/recall",
            "abstains: precision",
            "recall",
            *(["token-F1"] if answered else []),
        ],
    )
    for result, cost in with_cost:
        table.add_row(result.backend, *_cost_cells(result, cost, answered=answered))
    out.print(table)
    abstention = with_cost[0][0].abstention if with_cost else None
    if abstention and abstention.unanswerable:
        out.print(
            Text(
                f"  Questions without an answer: {abstention.unanswerable}; "
                f"abstaining always would have precision {abstention.base_rate:.2f}.",
                style="dim",
            )
        )


def _cost_cells(result: Result, cost: Cost, *, answered: bool) -> list[str]:
    abstention, answers = result.abstention, result.answers
    return [
        _number(cost.write_ms_per_turn, 2),
        _number(cost.recall_ms_median, 1),
        _number(cost.recall_ms_p95, 1),
        _number(cost.bytes_per_turn, 0),
        _number(cost.model_calls_per_turn, 2),
        _number(cost.model_calls_per_recall, 0),
        _number(abstention.precision if abstention else None, 2),
        _number(abstention.recall if abstention else None, 2),
        *([_number(answers.token_f1 if answers else None)] if answered else []),
    ]


def _print_differences(out: Console, differences: Sequence[Difference]) -> None:
    from memagent.agent.evaluation.report import AGAINST, HEADLINE

    pairs = [
        difference
        for difference in differences
        if difference.level == "turn" and difference.against != AGAINST["turn"]
    ]
    if not pairs:
        return
    table = _table(f"\n{HEADLINE} of turns between memories", ["", "difference", "95 % interval"])
    for pair in pairs:
        table.add_row(
            f"{pair.backend} - {pair.against}",
            f"{pair.difference:+.3f}",
            f"{pair.low:+.3f} to {pair.high:+.3f}",
        )
    out.print(table)
    out.print(Text("  Paired bootstrap over questions, 10,000 resamples.", style="dim"))


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"{difference.difference:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
