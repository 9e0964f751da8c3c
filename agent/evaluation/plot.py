"""The comparison as a picture: evidence found by k and by category, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from memagent.agent.evaluation.baselines import CHANCE
from memagent.agent.evaluation.metrics import KS
from memagent.agent.evaluation.report import HEADLINE, HEADLINE_K, Result, Summary
from memagent.agent.evaluation.run import REFERENCE
from memagent.backends.errors import InputError, MissingExtraError
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


def check_matplotlib() -> None:
    """Refuse to draw without matplotlib, before hours are spent.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("--plot", "matplotlib", extra="plot") from error


def plot(summary: Summary, path: Path) -> None:
    """Draw a result into a PNG, SVG or PDF file.

    Raises:
        InputError: see ``check_path``; or the file cannot be written.
        MissingExtraError: see ``check_matplotlib``.
    """
    check_path(path)
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = [result for result in summary.results if result.level == "turn"]
    questions = results[0].total.questions
    if not questions:
        raise InputError("There is nothing to draw: no question asked has an answer with evidence turns.")
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    recall, category, cost = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    styles = _styles([result.backend for result in results])
    _by_k(recall, results, styles)
    _by_category(category, results, styles)
    _costs(cost, results, styles)
    data = summary.manifest.data
    figure.suptitle(
        f"{summary.manifest.benchmark}: evidence turns found, {questions} questions "
        f"in {data.cases} conversations of {data.turns:,} turns",
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
    """Return colour, marker and line of each method; chance, reference and control are grey."""
    styles: dict[str, dict[str, Any]] = {
        CHANCE: {"color": _GREY, "marker": ".", "linestyle": ":"},
        REFERENCE: {"color": _GREY, "marker": "|", "linestyle": "--"},
        CONTROL: {"color": "#999999", "marker": "x", "linestyle": "-."},
    }
    for place, name in enumerate(name for name in names if name not in styles):
        number = place % len(_COLOURS)
        styles[name] = {"color": _COLOURS[number], "marker": _MARKERS[number], "linestyle": "-"}
    return {name: styles[name] for name in names}


def _by_k(axes: Any, results: Sequence[Result], styles: Mapping[str, Any]) -> None:
    """Draw recall@k over k, each line named at its end."""
    places = range(len(KS))
    for result in results:
        values = [result.total.recall[k] for k in KS]
        axes.plot(places, values, markersize=7, linewidth=1.8, **styles[result.backend])
    ends = [result.total.recall[KS[-1]] or 0.0 for result in results]
    for result, end, height in zip(results, ends, _spread(ends), strict=True):
        axes.text(
            len(KS) - 0.85,
            height,
            f"{result.backend} {end:.2f}",
            color=styles[result.backend]["color"],
            va="center",
            fontsize=9,
        )
    axes.set(xlim=(-0.2, len(KS) + 0.2), ylim=(-0.03, 1.03), xlabel="k", ylabel="recall@k")
    axes.set_xticks(places, [str(k) for k in KS])
    _decorate(axes, "Evidence among the first k", "y")


def _by_category(axes: Any, results: Sequence[Result], styles: Mapping[str, Any]) -> None:
    """Draw recall@10 by category, a row each."""
    categories = sorted({name for result in results for name in result.by_category}, reverse=True)
    for result in results:
        style = {**styles[result.backend], "linestyle": ""}
        values = [result.by_category[name].recall[HEADLINE_K] for name in categories]
        axes.plot(values, range(len(categories)), markersize=9, alpha=0.9, **style)
    counts = {name: results[0].by_category[name].questions for name in categories}
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(categories) - 0.4), xlabel=HEADLINE)
    axes.set_yticks(
        range(len(categories)),
        [f"{_category_label(name)}\n{counts[name]} questions" for name in categories],
    )
    _decorate(axes, f"{HEADLINE} by category", "x")


def _costs(axes: Any, results: Sequence[Result], styles: Mapping[str, Any]) -> None:
    """Draw the time of a recall and of a written turn, in milliseconds."""
    costs = [(result.backend, result.cost) for result in results if result.cost is not None][::-1]
    for place, (backend, cost) in enumerate(costs):
        color = styles[backend]["color"]
        bars = (
            (0.2, "recall", cost.recall_ms_median, color, ""),
            (-0.2, "write a turn", cost.write_ms_per_turn, "white", "///"),
        )
        for shift, label, value, fill, hatch in bars:
            if value is None:
                continue
            axes.barh(place + shift, value, 0.36, color=fill, edgecolor=color, hatch=hatch)
            axes.text(value, place + shift, f"  {label} {_milliseconds(value)}", va="center", fontsize=9)
    axes.set_yticks(range(len(costs)), [backend for backend, _ in costs])
    max_milliseconds = max(
        (value or 0 for _, cost in costs for value in (cost.recall_ms_median, cost.write_ms_per_turn)),
        default=1,
    )
    axes.set(
        xlim=(0, 1.9 * max_milliseconds or 1),
        ylim=(-0.6, len(costs) - 0.4),
        xlabel="milliseconds (recall: median)",
    )
    _decorate(axes, "Time", "x")


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms" if value >= 0.1 else f"{value:.3f} ms"


def _category_label(name: str) -> str:
    return f"category {name}" if name.isdigit() else name


def _spread(heights: Sequence[float], gap: float = 0.055) -> list[float]:
    """Move labels apart that would overlap, keeping their order."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    spread = list(heights)
    for below, above in pairwise(order):
        spread[above] = max(spread[above], spread[below] + gap)
    return spread


def _decorate(axes: Any, title: str, grid: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
