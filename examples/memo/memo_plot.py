"""The plots of the MeMo examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's palette, which people with any colour vision can distinguish; markers differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
MARKERS = "osD^vPX"


def plot_capacity(rows: Sequence[Mapping[str, Any]], line: Mapping[str, float] | None, path: Path) -> None:
    """Plot capacity by parameters, with the fitted line."""
    figure, (axes,) = _figure(6, 4.5)
    for index, heads in enumerate(sorted({row["setting"]["heads"] for row in rows})):
        points = [(row["parameters"], row["capacity"]) for row in rows if row["setting"]["heads"] == heads]
        axes.scatter(
            *zip(*points, strict=True),
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            label=f"h = {heads}",
        )
    if line:
        ends = [min(row["parameters"] for row in rows), max(row["parameters"] for row in rows)]
        fitted = [line["slope"] * end + line["intercept"] for end in ends]
        axes.plot(
            ends, fitted, color="#666666", linestyle="--", linewidth=1, label=f"slope {line['slope']:.4f}"
        )
    axes.set_xlabel("parameters, d_in d_out")
    axes.set_ylabel("pairs stored at accuracy 0.9")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def plot_layers(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot accuracy by the number of texts, one panel for each number of decoys and size."""
    keys = sorted({(row["setting"]["decoys"], row["setting"]["dim"]) for row in rows})
    figure, panels = _figure(4.5 * len(keys), 4.2, len(keys))
    for axes, (decoys, dim) in zip(panels, keys, strict=True):
        own = [row for row in rows if (row["setting"]["decoys"], row["setting"]["dim"]) == (decoys, dim)]
        for index, row in enumerate(sorted(own, key=lambda row: row["setting"]["layers"])):
            colour = COLOURS[(row["setting"]["layers"] - 1) % len(COLOURS)]
            points = row["accuracy"]
            tokens = [point["tokens"] for point in points]
            label = f"l = {row['setting']['layers']}"
            axes.plot(
                tokens,
                [point["mean"] for point in points],
                color=colour,
                marker=MARKERS[index % 7],
                label=label,
            )
            axes.plot(tokens, [point["first"] for point in points], color=colour, linestyle=":", linewidth=1)
        axes.set_title(f"{decoys} decoys, d = {dim}", loc="left", fontsize=11)
        axes.set_xlabel("tokens stored")
        axes.set_ylim(-0.03, 1.05)
        axes.legend(frameon=False)
    panels[0].set_ylabel("accuracy (mean of first and newest; dotted: first)")
    figure.savefig(path, dpi=130)


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
