"""What rows of context_bank_consolidation.py say together: means with intervals, differences, and a plot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fit_data import FIT

LIMIT = 10
"""How many of the best turns recall counts."""
RESAMPLES = 2000
Row = dict[str, Any]


def values_of(rows: Iterable[Row], value: Callable[[Row], float | None]) -> dict[str, dict[str, float]]:
    """Return the mean over seeds of each question's value, by conversation and question; None does not count."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for question in row["questions"]:
            number = value(question)
            if number is not None:
                found[row["conversation"]][question["id"]].append(number)
    return {
        name: {key: float(np.mean(numbers)) for key, numbers in questions.items()}
        for name, questions in found.items()
    }


def interval(values: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of values by conversation, and its 95 % interval.

    A percentile bootstrap in two stages (Davison and Hinkley 1997, section 3.8): conversations are drawn again, and then
    questions within them.
    """
    draw = np.random.default_rng(seed)
    arrays = [np.asarray(one) for one in values]
    chosen = draw.integers(len(arrays), size=(RESAMPLES, len(arrays)))
    sums, counts = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for column in chosen.T:
        for number, array in enumerate(arrays):
            places = np.flatnonzero(column == number)
            sums[places] += array[draw.integers(len(array), size=(len(places), len(array)))].sum(axis=1)
            counts[places] += len(array)
    low, high = np.quantile(sums / counts, [0.025, 0.975])
    return float(np.concatenate(arrays).mean()), float(low), float(high)


def compared(
    ours: Mapping[str, Mapping[str, float]], theirs: Mapping[str, Mapping[str, float]]
) -> list[float]:
    """Return the mean difference over the questions that both have, and its interval."""
    shared = [
        [value - theirs[name][key] for key, value in questions.items() if key in theirs.get(name, {})]
        for name, questions in ours.items()
    ]
    shared = [differences for differences in shared if differences]
    return [round(number, 4) for number in interval(shared)] if shared else []


def summary(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the figures of each policy and share, of all conversations and of those that nothing is fitted on."""
    for group in ("all", "reported on"):
        of_group = [row for row in rows if group == "all" or row["conversation"] not in FIT]
        cells: dict[tuple[str, float], list[Row]] = defaultdict(list)
        for row in of_group:
            cells[row["policy"], row["share"]].append(row)
        for (policy, share), cell in cells.items():
            recalls = values_of(cell, lambda question: question["recall"])
            baseline = values_of(cells.get(("random", share), []), lambda question: question["recall"])
            yield {
                "group": group,
                "policy": policy,
                "share": share,
                "recall@10": [
                    round(number, 4) for number in interval([[*one.values()] for one in recalls.values()])
                ],
                "minus_random": compared(recalls, baseline),
                "turns_stored": round(float(np.mean([row["turns_stored"] for row in cell])), 3),
                "turns_found": round(float(np.mean([row["turns_found"] for row in cell])), 3),
                **parts(cell),
            }


def parts(cell: Sequence[Row]) -> dict[str, dict[str, tuple[float, int]]]:
    """Return mean recall and number of questions: by category, rare word, and what became of the evidence."""
    splits: dict[str, Callable[[Row], str]] = {
        "category": lambda question: question["category"],
        "rare_word": lambda question: "yes" if question["rare"] else "no",
        "evidence": lambda question: (
            "unmerged"
            if question["unmerged"] == 1
            else "evicted"
            if not question["stored"]
            else "merged or evicted in part"
        ),
    }
    result: dict[str, dict[str, tuple[float, int]]] = {}
    for name, split in splits.items():
        recalls: dict[str, list[float]] = defaultdict(list)
        for row in cell:
            for question in row["questions"]:
                recalls[split(question)].append(question["recall"])
        result[name] = {
            part: (round(float(np.mean(numbers)), 3), len(numbers))
            for part, numbers in sorted(recalls.items())
        }
    return result


def plot(figures: Sequence[Row], path: Path) -> None:
    """Draw recall against capacity, one line for each policy; the intervals as error bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    for axes, group in zip(figure.subplots(1, 2, sharey=True), ("all", "reported on"), strict=True):
        of_group = [row for row in figures if row["group"] == group]
        shares = sorted({row["share"] for row in of_group})
        names = list(dict.fromkeys(row["policy"] for row in of_group))
        for number, name in enumerate(names):
            own = sorted((row for row in of_group if row["policy"] == name), key=lambda row: row["share"])
            mean, low, high = np.array([row["recall@10"] for row in own]).T
            if name == "full":
                axes.axhline(mean[-1], color="grey", linestyle=":", label="never merged")
                continue
            places = np.array([row["share"] for row in own]) * (1 + 0.012 * (number - len(names) / 2))
            evicts = name in ("random", "fifo", "lru")
            axes.errorbar(
                places,
                mean,
                yerr=[mean - low, high - mean],
                label=name,
                color=f"C{number % 10}",
                marker="s" if evicts else "o",
                linestyle="--" if evicts else "-" if number < 10 else "-.",
                linewidth=2 if name in ("merge", "plain") else 1,
                elinewidth=0.6,
                markersize=4,
            )
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
        axes.minorticks_off()
        axes.set_title(
            {"all": "all conversations", "reported on": "conversations that nothing is fitted on"}[group]
        )
        axes.set_xlabel("capacity, share of the vectors of the conversation")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"recall@{LIMIT} of evidence turns")
    figure.axes[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)
