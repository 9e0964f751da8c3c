"""The plots of the Titans examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's palette, which people with any colour vision can distinguish; markers differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
MARKERS = "osD^vPX"


def plot_losses(losses: Sequence[float], path: Path, title: str) -> None:
    """Plot the loss of every update, in nats per label, and its moving average."""
    figure, (axes,) = _figure(7.5, 4.2)
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color=COLOURS[0], alpha=0.25, linewidth=0.8, label="one update")
    axes.plot(steps, smoothed(losses), color=COLOURS[0], linewidth=2, label="moving average")
    axes.set_xlabel("update")
    axes.set_ylabel("loss, nats per label")
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def plot_experiments(summary: Mapping[str, Any], path: Path) -> None:
    """Plot accuracy against length, one panel for each experiment, with the range over seeds."""
    experiments = summary["experiments"]
    figure, panels = _figure(5 * len(experiments), 5, len(experiments))
    chance = summary["settings"]["chance"]
    for axes, (title, runs) in zip(panels, experiments.items(), strict=True):
        for index, (name, accuracy) in enumerate(runs.items()):
            lengths = [int(length) for length in accuracy]
            mean = [spread["mean"] for spread in accuracy.values()]
            low = [spread["mean"] - spread["low"] for spread in accuracy.values()]
            high = [spread["high"] - spread["mean"] for spread in accuracy.values()]
            style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
            # Shifted sideways, because many accuracies are near 1.
            shifted = [length * 1.035 ** (index - len(runs) / 2) for length in lengths]
            axes.errorbar(shifted, mean, yerr=[low, high], label=name, capsize=2, linewidth=1.5, **style)
        axes.axhline(chance, color="#666666", linestyle="--", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, list(map(str, lengths)))
        axes.minorticks_off()
        axes.set_ylim(-0.03, 1.05)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(f"tokens (trained at {summary['settings']['training']['length']})")
        # Below the panel, because the lines may be anywhere in it.
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    panels[0].set_ylabel("accuracy")
    figure.savefig(path, dpi=130)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the moving average over up to a fiftieth of all values before and after each value."""
    radius = max(len(values) // 50, 1)
    windows = (values[max(index - radius, 0) : index + radius + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure and its panels, from left to right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    return figure, panels
