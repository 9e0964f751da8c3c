"""The fairy-tale experiment as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairy_tales_measure import NONE
from fairy_tales_scorer import QUOTE_WORDS
from rich.console import Console
from rich.table import Table

_SAMPLE_TALES = 3
_COLOURS = {"chunk": "#0072B2", "token": "#D55E00"}
_INK = "#222222"


def print_report(summary: Mapping[str, Any]) -> None:
    """Print all figures, then some answers side by side."""
    console = Console()
    console.print(_figures(summary))
    console.print(_by_tale(summary))
    check = summary["scorer_on_the_tales"]
    console.print(
        f"An answer quotes a tale if {QUOTE_WORDS} words in a row stand in it too; without memory "
        f"{summary['quoting_without_memory']} of {len(summary['settings']['questions'])} answers quote any of the tales."
    )
    console.print(
        f"The scorer knows the tale of {check['words']} words of its own text (left out of the fit) in "
        f"{check['accuracy']:.0%} of {check['snippets']} cases; chance {check['chance']:.0%}."
    )
    for question in list(summary["settings"]["questions"])[:3]:
        console.print(_samples(summary, question))


def _figures(summary: Mapping[str, Any]) -> Table:
    table = Table(title="What a tale in memory does to the answers")
    table.add_column("mode")
    headings = ("KL, nats a token", "unchanged", "quote it", "tale told", "95 %", "chance", "p (shuffled)")
    for heading in headings:
        table.add_column(heading, justify="right")
    for mode, found in summary["modes"].items():
        told = found["told"]
        low, high = told["interval_95"]
        asked = sum(one["mode"] == mode for one in summary["answers"])
        table.add_row(
            mode,
            f"{found['kl_mean']:.3f}",
            f"{found['unchanged_answers']} of {asked}",
            f"{found['quoting_answers']} of {asked}",
            f"{told['accuracy']:.3f} ({told['right']} of {told['answers']})",
            f"{low:.3f} to {high:.3f}",
            f"{told['chance']:.3f}",
            f"{told['p_shuffled']:.4f}",
        )
    return table


def _by_tale(summary: Mapping[str, Any]) -> Table:
    table = Table(title="By tale")
    table.add_column("in memory")
    for mode in summary["modes"]:
        table.add_column(f"{mode}: KL", justify="right")
        table.add_column(f"{mode}: told", justify="right")
    questions = len(summary["settings"]["questions"])
    for name in [*summary["titles"], NONE]:
        cells = []
        for found in summary["modes"].values():
            kl = found["kl_by_tale"].get(name)
            cells += [
                "" if kl is None else f"{kl:.3f}",
                f"{found['right_by_condition'].get(name, 0)} of {questions}",
            ]
        table.add_row(summary["titles"].get(name, "nothing"), *cells)
    return table


def _samples(summary: Mapping[str, Any], question: str) -> Table:
    table = Table(title=question, show_lines=True)
    table.add_column("in memory")
    table.add_column("mode")
    table.add_column("answer")
    shown = {NONE, *list(summary["titles"])[:_SAMPLE_TALES]}
    for one in summary["answers"]:
        if one["question"] == question and one["tale"] in shown:
            table.add_row(summary["titles"].get(one["tale"], "nothing"), one["mode"], one["answer"])
    return table


def plot(summary: Mapping[str, Any], path: Path) -> None:
    """Draw the divergences by tale and question, and how often the tale was told."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    maps, bars = parts
    _heatmaps(maps, summary)
    _bars(bars, summary)
    figure.suptitle(
        f"A fairy tale in memory: what it does to the answers of {summary['settings']['model']}",
        fontsize=14,
        color=_INK,
    )
    figure.savefig(path, dpi=130)


def _heatmaps(figure: Any, summary: Mapping[str, Any]) -> None:
    modes, titles = list(summary["modes"]), summary["titles"]
    questions = summary["settings"]["questions"]
    kl = {(one["mode"], one["tale"], one["question"]): one["kl"] for one in summary["answers"]}
    highest = max((value for (mode, _, _), value in kl.items() if mode != NONE), default=1.0)
    panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for axes, mode in zip(panels, modes, strict=True):
        cells = [[kl.get((mode, tale, question), float("nan")) for tale in titles] for question in questions]
        image = axes.imshow(cells, cmap="viridis", vmin=0, vmax=highest, aspect="auto")
        for row, values in enumerate(cells):
            for column, value in enumerate(values):
                colour = "white" if value < 0.6 * highest else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=colour)
        axes.set_xticks(range(len(titles)), list(titles.values()), rotation=25, ha="right", fontsize=8.5)
        axes.set_yticks(range(len(questions)), questions, fontsize=9)
        mean = summary["modes"][mode]["kl_mean"]
        axes.set_title(f"mode {mode}: mean {mean:.2f}", loc="left", fontsize=11, color=_INK)
    figure.colorbar(image, ax=panels, label="KL (with memory || without), nats a token", shrink=0.9)


def _bars(figure: Any, summary: Mapping[str, Any]) -> None:
    overall, each = figure.subplots(1, 2, width_ratios=(1, 2.6))
    modes = list(summary["modes"])
    chance = 1 / (len(summary["titles"]) + 1)
    for place, mode in enumerate(modes):
        told = summary["modes"][mode]["told"]
        low, high = told["interval_95"]
        value = told["accuracy"]
        error = [[value - low], [high - value]]
        overall.bar(place, value, 0.6, color=_COLOURS.get(mode), yerr=error, capsize=5)
        overall.text(place + 0.04, value + 0.01, f" {value:.2f}", fontsize=10, va="bottom")
        names = [*summary["titles"], NONE]
        right = [summary["modes"][mode]["right_by_condition"].get(name, 0) for name in names]
        shift = (place - (len(modes) - 1) / 2) * 0.38
        each.bar([at + shift for at in range(len(names))], right, 0.36, color=_COLOURS.get(mode), label=mode)
    overall.set_xticks(range(len(modes)), modes)
    questions = len(summary["settings"]["questions"])
    titles = [*summary["titles"].values(), "nothing"]
    each.set_xticks(range(len(titles)), titles, rotation=20, ha="right", fontsize=8.5)
    overall.set_ylim(0, 1.1)
    each.set_ylim(0, 1.2 * questions)
    for axes, line in ((overall, chance), (each, chance * questions)):
        axes.axhline(line, color=_INK, linestyle="--", linewidth=1, label=f"chance 1/{len(titles)}")
        axes.spines[["top", "right"]].set_visible(False)
    overall.set_title("Tale told from the answer: accuracy, 95 %", loc="left", fontsize=11, color=_INK)
    each.set_title(
        f"Told right, of {questions} questions, by what was in memory", loc="left", fontsize=11, color=_INK
    )
    each.legend(frameon=False, ncols=3)
