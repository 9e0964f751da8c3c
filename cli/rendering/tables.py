"""A benchmark's result as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from memagent.backends.registry import CONTROL
from memagent.cli.rendering.console import Console, Table, console
from memagent.cli.rendering.output import one_line

_BASELINES = ("chance", "bm25", CONTROL)
# Where even a random order finds this much, a figure says little.
_NEAR_CORPUS = 0.5


def print_benchmark(summary: Mapping[str, Any]) -> None:
    """Print evidence recall by level, by category, abstention, cost, and how sure the differences are."""
    on = console()
    manifest = summary["manifest"]
    data = manifest["data"]
    on.print(
        Text(
            f"{manifest['benchmark']}, {one_line(data['file'])}: {data['cases']} conversations, {data['turns']:,} turns; "
            f"{manifest['embedder'].split()[0]} embeddings, seed {manifest['seed']}",
            style="bold",
        )
    )
    for level in ("turn", "session"):
        rows = [row for row in summary["results"] if row["level"] == level]
        if rows[0]["questions"]:
            _print_level(on, level, rows, summary["differences"])
    turns = [row for row in summary["results"] if row["level"] == "turn"]
    _print_categories(on, turns)
    _print_cost(on, [row for row in turns if "cost" in row])
    _print_differences(on, summary["differences"])


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _print_level(
    on: Console, level: str, rows: Sequence[Mapping[str, Any]], differences: Sequence[Any]
) -> None:
    metrics = [name for name in rows[0] if name.startswith("recall@")]
    chance = rows[0]
    against = {
        one["backend"]: one for one in differences if one["level"] == level and one["against"] == "bm25"
    }
    what = f"categories {rows[0]['categories']}" if rows[0]["categories"] != "all" else "all categories"
    title = f"\nEvidence {level}s found, {rows[0]['questions']} questions ({what})"
    table = _table(title, ["", *metrics, "MRR", "recall@10 against bm25"])
    for row in rows:
        cells = [
            Text(_number(row[name]), style="dim" if chance[name] > _NEAR_CORPUS else "") for name in metrics
        ]
        table.add_row(
            Text(row["backend"], style="dim" if row["backend"] in _BASELINES else ""),
            *cells,
            _number(row["mrr"]),
            _interval(against.get(row["backend"])),
        )
    on.print(table)
    near = [name for name in metrics if chance[name] > _NEAR_CORPUS]
    if near:
        on.print(Text(f"  {' and '.join(near)}: k is near the number of {level}s, see chance.", style="dim"))


def _print_categories(on: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(rows[0]["by_category"])
    if len(names) < 2:
        return
    table = _table("\nrecall@10 of turns by category id", ["", *names])
    for row in rows:
        table.add_row(row["backend"], *(_number(row["by_category"][name]["recall@10"]) for name in names))
    table.add_row(
        Text("questions", style="dim"),
        *(Text(str(rows[0]["by_category"][name]["questions"]), style="dim") for name in names),
    )
    on.print(table)


def _print_cost(on: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    answered = any("answers" in row for row in rows)
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
    for row in rows:
        cost, abstention = row["cost"], row["abstention"] or {}
        table.add_row(
            row["backend"],
            _number(cost["write_ms_per_turn"], 2),
            _number(cost["recall_ms_median"], 1),
            _number(cost["recall_ms_p95"], 1),
            _number(cost["bytes_per_turn"], 0),
            _number(cost["model_calls_per_turn"], 2),
            _number(cost["model_calls_per_recall"], 0),
            _number(abstention.get("precision"), 2),
            _number(abstention.get("recall"), 2),
            *([_number(row.get("answers", {}).get("token_f1"))] if answered else []),
        )
    on.print(table)
    first = rows[0]["abstention"] if rows else None
    if first and first["unanswerable"]:
        on.print(
            Text(
                f"  Questions without an answer: {first['unanswerable']}; "
                f"abstaining always would have precision {first['base_rate']:.2f}.",
                style="dim",
            )
        )


def _print_differences(on: Console, differences: Sequence[Mapping[str, Any]]) -> None:
    pairs = [one for one in differences if one["level"] == "turn" and one["against"] != "bm25"]
    if not pairs:
        return
    table = _table("\nrecall@10 of turns between memories", ["", "difference", "95 % interval"])
    for one in pairs:
        table.add_row(
            f"{one['backend']} - {one['against']}",
            f"{one['difference']:+.3f}",
            f"{one['low']:+.3f} to {one['high']:+.3f}",
        )
    on.print(table)
    on.print(Text("  Paired bootstrap over questions, 10,000 resamples.", style="dim"))


def _interval(one: Mapping[str, Any] | None) -> str:
    return f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" if one else ""


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
