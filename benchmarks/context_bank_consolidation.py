"""What a full context bank still recalls: merging against eviction, at several capacities, on LoCoMo.

    python benchmarks/context_bank_consolidation.py locomo.json --output rows.jsonl --plot consolidation.png
    python benchmarks/context_bank_consolidation.py locomo.json --policies merge lru --shares 0.5 0.1 --seeds 1
    python benchmarks/context_bank_consolidation.py locomo.json --output rows.jsonl --conversations conv-43 conv-47

The turns of a conversation are added to a bank in their order. A seeded half of the questions is asked while the talk is read,
each at the end of a session drawn from those after its evidence; the five best turns at that moment are noted as used, by a reply
with a seq of its own. After the last turn the other half measures recall@10: the share of a question's evidence turns among the ten
best, without abstention. A share is the capacity over the number of vectors of the whole conversation; `full` never merges.

Each turn and question is encoded once. A row that the file of --output holds is not computed again. Without --output, rows are
printed; the summary is printed after them. Its intervals (95 %) resample conversations, and questions within them.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fit_data import FIT
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, track

from memagent.agent.evaluation.datasets import LOADERS
from memagent.agent.evaluation.metrics import recall_at
from memagent.agent.home import Home
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.context_bank import ranking
from memagent.backends.context_bank.bank import ContextBank
from memagent.backends.context_bank.blocks import dequantise, quantise
from memagent.backends.context_bank.config import ContextBankConfig
from memagent.backends.context_bank.consolidation import ConsolidationRule
from memagent.backends.context_bank.latents import LatentCodec, presence
from memagent.backends.context_bank.weights import load_weights
from memagent.backends.protocol import Vectors
from memagent.backends.records import Turn
from memagent.backends.shared.linear import weight_vector
from memagent.backends.shared.words import content_words, query_words

ONE = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0}
NONE = {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}
POLICIES: dict[str, dict[str, Any]] = {
    "full": {},
    "merge": {"policy": "merge"} | ONE,
    "plain": {"policy": "plain"},
    "balanced": {"policy": "balanced"},
    "random": {"policy": "random"},
    "fifo": {"policy": "fifo"},
    "lru": {"policy": "lru"},
    "without frequency": {"policy": "merge"} | ONE | {"alpha": 0.0},
    "without attention": {"policy": "merge"} | ONE | {"beta": 0.0},
    "without recency": {"policy": "merge"} | ONE | {"gamma": 0.0},
    "frequency only": {"policy": "merge"} | NONE | {"alpha": 1.0},
    "attention only": {"policy": "merge"} | NONE | {"beta": 1.0},
    "recency only": {"policy": "merge"} | NONE | {"gamma": 1.0},
    "merge by sum": {"policy": "merge", "merge": "sum"} | ONE,
    "all components": {"policy": "merge", "key_dim": 0} | ONE,
}
"""Settings of each policy. The last one compares vectors by all of their components, not by their keys."""
LIMIT = 10
USED = 5
RARE_TURNS = 2
"""A word is rare if at most so many turns hold it."""
RESAMPLES = 2000
CONSOLE = Console(stderr=True)
Codec = Any
Row = dict[str, Any]


class KnownWords:
    """How surely the words of questions stand in the latents of a conversation, as a bank stores them.

    A bank is asked some hundred times; a vector that was not merged is always the same.
    """

    def __init__(self, codec: Codec, latents: Sequence[Vectors]) -> None:
        stored = stored_vectors(np.concatenate(latents))
        self._codes = codec.codes(stored)
        self._rows = {row.tobytes(): number for number, row in enumerate(stored)}
        self._likely: list[Vectors] = []
        self._numbers: dict[tuple[bytes, ...], int] = {}

    def add(self, forms: Sequence[Vectors]) -> int:
        """Return the number of a word, given by the codes of its spellings."""
        word = tuple(form.tobytes() for form in forms)
        if word not in self._numbers:
            self._numbers[word] = len(self._likely)
            places = self._codes.reshape(-1, self._codes.shape[2])
            likely = presence(places, forms).max(axis=1).reshape(self._codes.shape[:2])
            self._likely.append(np.stack([likely.max(axis=1), likely[:, 0]], axis=1))
        return self._numbers[word]

    def of(self, vectors: Vectors, whole: NDArray[np.bool_]) -> Vectors:
        """Return how surely each word stands in a bank's vectors: ``[words, vectors, 2]``, anywhere and at the first place."""
        rows = [self._rows[row.tobytes()] if one else 0 for row, one in zip(vectors, whole, strict=True)]
        return np.stack(self._likely)[:, rows] * whole[:, None]


@dataclass(frozen=True)
class KnownTable(ranking.TurnTable):
    """The turns of a bank, where a word is given by its number.

    Attributes:
        likely: how surely each word stands in each vector, ``[words, vectors, 2]``.
    """

    likely: Vectors

    def presence(self, forms: Sequence[Vectors]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how surely a word stands in each turn; see ``TurnTable.presence``."""
        result = np.zeros((len(self.seqs), 2))
        np.maximum.at(result, self.turns, self.likely[int(forms[0][0]), self.vectors])
        return result[:, 0], result[:, 1]


@dataclass(frozen=True, eq=False)
class Asked:
    """A question, encoded.

    Attributes:
        id: place in the conversation's list.
        category: LoCoMo's.
        evidence: places of turns, from 1.
        rare: whether one of its words stands in its evidence and in few turns.
        key: see ``LatentCodec.question_key``.
        words: numbers of its content words in the talk's ``KnownWords``.
    """

    id: str
    category: str
    evidence: frozenset[int]
    rare: bool
    key: Vectors
    words: list[int]


@dataclass(frozen=True, eq=False)
class Talk:
    """A conversation, encoded.

    Attributes:
        name: of the conversation.
        latents: of each turn.
        session_ends: places of the last turns of sessions, from 1.
        questions: those with evidence.
        known: the words of questions in the latents.
    """

    name: str
    latents: list[Vectors]
    session_ends: list[int]
    questions: list[Asked]
    known: KnownWords

    @property
    def size(self) -> int:
        """Number of latent vectors."""
        return sum(map(len, self.latents))


def talks(path: Path, names: Sequence[str] | None) -> tuple[Codec, list[Talk]]:
    """Encode the conversations of a LoCoMo file with the default model."""
    local = as_local(
        load_chat_model("qwen2.5-coder-0.5b", Home.from_environment().models, notify=CONSOLE.print)
    )
    codec = LatentCodec(local, load_weights(local, ContextBankConfig().ratio, None).autoencoder)
    result = []
    for case in LOADERS["locomo"](path):
        if names and case.id not in names:
            continue
        rows = [turn for session in case.sessions for turn in session]
        counts = Counter(word for row in rows for word in set(query_words(row.text)))
        latents = [
            codec.encode(Turn(seq, "", row.session, row.role, row.text, row.created_at, row.speaker))  # type: ignore[arg-type]
            for seq, row in enumerate(track(rows, case.id, console=CONSOLE), start=1)
        ]
        known = KnownWords(codec, latents)
        questions = []
        for item in track(case.questions, f"{case.id}: questions", console=CONSOLE):
            if item.answerable and item.turns:
                words = content_words(item.text)
                evidence_words = {word for place in item.turns for word in query_words(rows[place].text)}
                questions.append(
                    Asked(
                        item.id,
                        item.category,
                        frozenset(place + 1 for place in item.turns),
                        any(word in evidence_words and counts[word] <= RARE_TURNS for word in words),
                        codec.question_key(item.text),
                        [known.add(forms) for forms in codec.word_codes(item.text)],
                    )
                )
        ends = np.cumsum([len(session) for session in case.sessions]).tolist()
        result.append(Talk(case.id, latents, ends, questions, known))
    return codec, result


def stored_vectors(latents: Vectors) -> Vectors:
    """Return latents after they were stored in 8 bit."""
    return dequantise(*quantise(latents, ContextBankConfig().precision))


@dataclass
class Reading:
    """A bank that reads a talk.

    Args:
        codec: of its latents.
        talk: the conversation.
        bank: an empty bank.
    """

    codec: Codec
    talk: Talk
    bank: ContextBank

    def __post_init__(self) -> None:
        self._places: dict[int, int] = {}
        self._newest = 0

    def read(self, place: int) -> None:
        """Add a turn by its place in the talk, from 1."""
        self._newest += 1
        self._places[self._newest] = place
        self.bank.add(self._newest, self.talk.latents[place - 1])

    def ask(self, questions: Sequence[Asked]) -> None:
        """Note the best turns for each question as used by a reply."""
        used = [ranked[:USED] for ranked in self.ranked(questions)]
        seqs = {place: seq for seq, place in self._places.items()}
        for places in used:
            self._newest += 1
            self.bank.note_use(self._newest, [seqs[place] for place in places])

    def table(self) -> KnownTable:
        """Return the turns of the bank, with their places in the talk as seqs: replies do not part neighbours."""
        table = ranking.TurnTable.of(self.bank, self.codec)
        places = np.array([self._places[seq] for seq in table.seqs.tolist()], np.int64)
        likely = self.talk.known.of(self.bank.vectors, table.whole)
        return KnownTable(**{**vars(table), "seqs": places}, likely=likely)

    def ranked(self, questions: Sequence[Asked]) -> list[list[int]]:
        """Return the places of the ten best turns for each question."""
        if not questions:
            return []
        table = self.table()
        weights = weight_vector(ranking.WEIGHTS, "turn", ranking.FEATURES)
        result = []
        for question in questions:
            words = [[np.array([number])] for number in question.words]
            scores = ranking.compare(table, question.key, words).features @ weights
            result.append(table.seqs[np.argsort(-scores, kind="stable")[:LIMIT]].tolist())
        return result

    def unmerged(self) -> dict[int, float]:
        """Return the share of the original vectors of each turn, by its place, that are stored and not merged."""
        sources, whole = self.bank.sources, self.bank.counts == 1
        kept: Counter[int] = Counter()
        for vector, (start, end) in enumerate(zip(sources.indptr[:-1], sources.indptr[1:], strict=True)):
            if whole[vector]:
                kept.update(sources.seqs[start:end].tolist())
        return {self._places[seq]: kept[seq] / size for seq, size in self.bank.turns.items()}


def measured(codec: Codec, talk: Talk, policy: str, share: float, seed: int) -> Row:
    """Return what a bank recalls of a talk."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(talk.questions)).tolist()
    asked_at: dict[int, list[Asked]] = defaultdict(list)
    for number in order[: len(order) // 2]:
        question = talk.questions[number]
        asked_at[
            int(draw.choice([end for end in talk.session_ends if end >= max(question.evidence)]))
        ].append(question)
    others = [talk.questions[number] for number in order[len(order) // 2 :]]
    capacity = max(1, round(share * talk.size))
    rule = rule_of(codec, policy, seed)
    # No block is full if each may have as many vectors as the whole talk.
    bank = ContextBank(
        codec.size,
        capacity * len(talk.latents) if policy == "full" else capacity,
        ContextBankConfig().precision,
        rule,
    )
    reading = Reading(codec, talk, bank)
    for place in range(1, len(talk.latents) + 1):
        reading.read(place)
        reading.ask(asked_at[place])
    ranked = reading.ranked(talk.questions)
    by_id = {question.id: places for question, places in zip(talk.questions, ranked, strict=True)}
    unmerged = reading.unmerged()
    stored = {reading._places[seq] for seq in np.unique(bank.sources.seqs).tolist()}
    return {
        "conversation": talk.name,
        "policy": policy,
        "share": share,
        "seed": seed,
        "capacity": capacity,
        "vectors": len(bank),
        "removals": bank.removals,
        "turns_stored": round(len(stored) / len(talk.latents), 4),
        "turns_found": round(len({place for places in ranked for place in places}) / len(talk.latents), 4),
        "questions": [
            {
                "id": question.id,
                "category": question.category,
                "rare": question.rare,
                "recall": round(recall_at(by_id[question.id], question.evidence, LIMIT), 4),
                "unmerged": round(float(np.mean([unmerged[place] for place in question.evidence])), 4),
                "stored": round(len(question.evidence & stored) / len(question.evidence), 4),
            }
            for question in others
        ],
    }


def rule_of(codec: Codec, policy: str, seed: int) -> ConsolidationRule:
    """Return the rule of a policy."""
    settings = dict(POLICIES[policy])
    key_dim = settings.pop("key_dim", codec.key_size)
    return replace(ContextBankConfig(**settings).rule(codec.key_size, seed), key_dim=key_dim)


# Summary


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
        names = [name for name in POLICIES if any(row["policy"] == name for row in of_group)]
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


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("locomo", type=Path)
    parser.add_argument("--policies", choices=tuple(POLICIES), nargs="+", default=list(POLICIES))
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.1, 0.05])
    parser.add_argument("--seeds", type=int, default=3, help="how many halves of the questions")
    parser.add_argument("--conversations", nargs="+", help="names; all without it")
    parser.add_argument("--output", type=Path, help="file of rows, which is continued")
    parser.add_argument("--plot", type=Path, help="file of the picture; needs the extra memagent[plot]")
    arguments = parser.parse_args()
    rows: list[Row] = []
    if arguments.output and arguments.output.exists():
        rows = [json.loads(line) for line in arguments.output.read_text(encoding="utf-8").splitlines()]
    done = {(row["conversation"], row["policy"], row["share"], row["seed"]) for row in rows}
    names = arguments.conversations or [case.id for case in LOADERS["locomo"](arguments.locomo)]
    todo = [
        (name, policy, share, seed)
        for seed in range(arguments.seeds)
        for policy in arguments.policies
        for share in (arguments.shares if policy != "full" else [1.0])
        for name in names
        if (name, policy, share, seed) not in done
    ]
    if todo:
        codec, encoded = talks(arguments.locomo, names)
        by_name = {talk.name: talk for talk in encoded}
        with Progress(console=CONSOLE) as progress:
            task = progress.add_task("rows", total=len(todo))
            for name, policy, share, seed in todo:
                progress.update(task, description=f"{name}, {policy}, {share:.0%}")
                rows.append(measured(codec, by_name[name], policy, share, seed))
                if arguments.output:
                    with arguments.output.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
                else:
                    print(json.dumps(rows[-1]), flush=True)
                progress.advance(task)
    figures = list(summary([row for row in rows if row["conversation"] in names]))
    for figure in figures:
        print(json.dumps(figure))
    if arguments.plot:
        plot(figures, arguments.plot)


if __name__ == "__main__":
    main()
