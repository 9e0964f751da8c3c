"""Does a fairy tale in memory colour what a model says? The experiment of the RoPE memory map's paper.

    python examples/fairy_tales.py FOLDER_OF_TALES --results tales.jsonl --plot tales.png

The folder holds one text file a tale: the title, then the paragraphs, with empty lines between them. Each tale is
remembered by the `rope_map` backend, a turn a paragraph, in a temporary home of its own; then ten open questions are
asked with it in memory, in both modes, and once without any memory. Killed, it continues when the same command is
given again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from fairy_tales_measure import (
    NONE,
    QUESTIONS,
    SYSTEM,
    Measured,
    Reference,
    Subject,
    Tale,
    ask_with,
    remember,
)
from fairy_tales_report import plot, print_report
from fairy_tales_results import OtherRunError, Results
from fairy_tales_scorer import summarise
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from memagent.agent.evaluation.benchmarks.plot import check_path
from memagent.agent.home import Home
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.errors import MemagentError

MODES = ("chunk", "token")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    """All that results depend on.

    Attributes:
        model: name of the model.
        system: the prompt before each question.
        tales: SHA-256 of each tale, by name.
        questions: their texts.
        max_tokens: longest answer.
        chunks: chunks attended to in mode chunk.
        top_k, offset: tokens each head attends to in mode token, and from how far.
        versions: of memagent, torch and transformers.
    """

    model: str
    system: str
    tales: dict[str, str]
    questions: list[str]
    max_tokens: int
    chunks: int
    top_k: int
    offset: int
    versions: dict[str, str]

    def of_mode(self, mode: str) -> dict[str, str]:
        """The backend's settings."""
        return {
            "mode": mode,
            "abstain": "false",
            "chunks": str(self.chunks),
            "top_k": str(self.top_k),
            "offset": str(self.offset),
        }


class Bars:
    """Progress bars on stderr, one below the other; nothing where nobody watches."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        self.bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def track(self, items: Iterable[Item], *, total: int | None, label: str) -> Iterable[Item]:
        task = self.bars.add_task(label, total=total)
        for item in items:
            yield item
            self.bars.advance(task)
        self.bars.remove_task(task)


def run(settings: Settings, tales: Sequence[Tale], results: Results) -> None:
    """Measure what is missing among the results."""
    wanted = {(mode, tale.name): list(settings.questions) for tale in tales for mode in MODES}
    wanted[NONE, NONE] = list(settings.questions)
    missing = {
        key: [place for place, question in enumerate(asked) if question not in results.done(*key)]
        for key, asked in wanted.items()
    }
    if not any(missing.values()):
        return
    models = Home.from_environment().models
    bars = Bars()
    with bars.bars:
        task = bars.bars.add_task("Answers", total=sum(map(len, wanted.values())))
        bars.bars.update(task, completed=len(results.measured))

        def add(one: Measured) -> None:
            results.add(one)
            bars.bars.advance(task)

        model = load_chat_model(settings.model, models, notify=bars.bars.console.print)
        subject = Subject(as_local(model), settings.max_tokens)
        reference = Reference(subject, settings.questions)
        for place, one in enumerate(reference.measured(subject)):
            if place in missing[NONE, NONE]:
                add(one)
        for tale in tales:
            todo = {mode: missing[mode, tale.name] for mode in MODES if missing[mode, tale.name]}
            if not todo:
                continue
            with tempfile.TemporaryDirectory() as folder:
                home = remember(tale, Path(folder), models)
                for mode, places in todo.items():
                    of_mode = settings.of_mode(mode)
                    for one in ask_with(tale, home, subject, reference, of_mode, places, bars.track):
                        add(one)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="one .txt file a tale")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines; continued where it ends")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--plot", type=Path, help="draw into this .png file")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--tales", type=int, help="the first so many only")
    parser.add_argument("--questions", type=int, default=len(QUESTIONS), help="the first so many only")
    parser.add_argument("--max-tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--chunks", type=int, default=8, help="chunks attended to in mode chunk")
    parser.add_argument("--top-k", type=int, default=16, help="tokens each head attends to in mode token")
    parser.add_argument("--offset", type=int, default=4096, help="of the queries in mode token")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    tales = [Tale.read(path) for path in sorted(options.folder.glob("*.txt"))][: options.tales]
    if len(tales) < 2:
        sys.exit(f"{options.folder} holds {len(tales)} .txt files; at least two tales are needed.")
    settings = Settings(
        model=options.model,
        system=SYSTEM,
        tales={tale.name: tale.sha256 for tale in tales},
        questions=list(QUESTIONS[: options.questions]),
        max_tokens=options.max_tokens,
        chunks=options.chunks,
        top_k=options.top_k,
        offset=options.offset,
        versions={name: version(name) for name in ("memagent", "torch", "transformers")},
    )
    try:
        if options.plot:
            check_path(options.plot)
        results = Results(options.results, asdict(settings))
        run(settings, tales, results)
    except (OtherRunError, MemagentError) as error:
        sys.exit(str(error))
    summary = summarise(asdict(settings), tales, results.measured)
    if options.output == "json":
        print(json.dumps(summary, indent=2))
    else:
        print_report(summary)
    if options.plot:
        plot(summary, options.plot)


if __name__ == "__main__":
    main()
