"""The comparison as a picture: evidence found by depth and by category, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from memagent.agent.evaluation.benchmarks.measure import BM25, CHANCE
from memagent.agent.evaluation.benchmarks.metrics import KS
from memagent.agent.evaluation.benchmarks.report import HEADLINE
from memagent.backends.errors import InputError
from memagent.backends.registry import CONTROL

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's palette: told apart by people with any colour vision; markers differ as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_MARKERS = "osD^vPX"
_GREY = "#666666"
_INK = "#222222"


def check_path(path: Path) -> None:
    """Refuse a picture that cannot be drawn, before hours are spent.

    Raises:
        InputError: another suffix, or no such folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--plot {path}: expected a file that ends in {', '.join(SUFFIXES)}.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder {path.absolute().parent}.")


def plot(summary: Mapping[str, Any], path: Path) -> None:
    """Draw a result into a PNG, SVG or PDF file.

    Raises:
        InputError: see ``check_path``; or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_path(path)
    rows = [row for row in summary["results"] if row["level"] == "turn"]
    if not rows[0]["questions"]:
        raise InputError("There is nothing to draw: no question asked has an answer with evidence turns.")
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    depth, category, cost = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    styles = _styles([row["backend"] for row in rows])
    _by_depth(depth, rows, styles)
    _by_category(category, rows, styles)
    _costs(cost, rows, styles)
    data = summary["manifest"]["data"]
    questions = rows[0]["questions"]
    figure.suptitle(
        f"{summary['manifest']['benchmark']}: evidence turns found, {questions} questions "
        f"in {data['cases']} conversations of {data['turns']:,} turns",
        fontsize=13,
        color=_INK,
        x=0.01,
        ha="left",
    )
    try:
        figure.savefig(path, dpi=160)
    except OSError as error:
        raise InputError(f"--plot {path} cannot be written: {error.strerror}.") from error


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {
        CHANCE: {"color": _GREY, "marker": ".", "linestyle": ":"},
        BM25: {"color": _GREY, "marker": "|", "linestyle": "--"},
        CONTROL: {"color": "#999999", "marker": "x", "linestyle": "-."},
    }
    for place, name in enumerate(name for name in names if name not in found):
        number = place % len(_COLOURS)
        found[name] = {"color": _COLOURS[number], "marker": _MARKERS[number], "linestyle": "-"}
    return {name: found[name] for name in names}


def _by_depth(axes: Any, rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Any]) -> None:
    """recall@k over k, each line named at its end."""
    places = range(len(KS))
    for row in rows:
        values = [row[f"recall@{k}"] for k in KS]
        axes.plot(places, values, markersize=7, linewidth=1.8, **styles[row["backend"]])
    ends = _spread([row[f"recall@{KS[-1]}"] for row in rows])
    for row, height in zip(rows, ends, strict=True):
        axes.text(
            len(KS) - 0.85,
            height,
            f"{row['backend']} {row[f'recall@{KS[-1]}']:.2f}",
            color=styles[row["backend"]]["color"],
            va="center",
            fontsize=9,
        )
    axes.set(xlim=(-0.2, len(KS) + 0.2), ylim=(-0.03, 1.03), xlabel="k", ylabel="recall@k")
    axes.set_xticks(places, [str(k) for k in KS])
    _plain(axes, "Evidence among the first k", "y")


def _by_category(axes: Any, rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Any]) -> None:
    """recall@10 by category, a row each."""
    categories = sorted({name for row in rows for name in row["by_category"]}, reverse=True)
    for row in rows:
        style = {**styles[row["backend"]], "linestyle": ""}
        values = [row["by_category"][name][HEADLINE] for name in categories]
        axes.plot(values, range(len(categories)), markersize=9, alpha=0.9, **style)
    counts = {name: rows[0]["by_category"][name]["questions"] for name in categories}
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(categories) - 0.4), xlabel=HEADLINE)
    axes.set_yticks(
        range(len(categories)), [f"{_category(name)}\n{counts[name]} questions" for name in categories]
    )
    _plain(axes, f"{HEADLINE} by category", "x")


def _costs(axes: Any, rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Any]) -> None:
    """What a recall and a written turn take, in milliseconds."""
    backends = [row for row in rows if "cost" in row][::-1]
    for place, row in enumerate(backends):
        color = styles[row["backend"]]["color"]
        cost = row["cost"]
        for shift, key, hatch in ((0.2, "recall_ms_median", ""), (-0.2, "write_ms_per_turn", "///")):
            value = cost[key]
            if value is None:
                continue
            axes.barh(
                place + shift,
                value,
                0.36,
                color=color if not hatch else "white",
                edgecolor=color,
                hatch=hatch,
            )
            what = "recall" if not hatch else "write a turn"
            axes.text(value, place + shift, f"  {what} {_milliseconds(value)}", va="center", fontsize=9)
    axes.set_yticks(range(len(backends)), [row["backend"] for row in backends])
    longest = max(
        (row["cost"][key] or 0 for row in backends for key in ("recall_ms_median", "write_ms_per_turn")),
        default=1,
    )
    axes.set(
        xlim=(0, 1.9 * longest or 1),
        ylim=(-0.6, len(backends) - 0.4),
        xlabel="milliseconds (recall: median)",
    )
    _plain(axes, "Time", "x")


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms" if value >= 0.1 else f"{value:.3f} ms"


def _category(name: str) -> str:
    return f"category {name}" if name.isdigit() else name


def _spread(heights: Sequence[float], gap: float = 0.055) -> list[float]:
    """Move labels apart that would overlap, keeping their order."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    spread = list(heights)
    for below, above in pairwise(order):
        spread[above] = max(spread[above], spread[below] + gap)
    return spread


def _plain(axes: Any, title: str, grid: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
