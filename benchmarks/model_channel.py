"""Recall and cost of a memory inside the model, with the default model.

    python benchmarks/model_channel.py facts --among 200 1000                twelve facts among other statements
    python benchmarks/model_channel.py facts --among 10000 --no-answers      only whether the right chunk is among the best
    python benchmarks/model_channel.py passkey --text tale.txt --tokens 100000
    python benchmarks/model_channel.py pairs --count 50                      key-value pairs of UUIDs (InfiniteBench's KV)
    python benchmarks/model_channel.py cost                                  time a generated token, bytes a stored token

Facts, passkey and pairs are never in the prompt: memory reaches the model inside its attention (channel ``model``).
``--backend titans`` measures another memory than the RoPE memory map, ``--channel text`` puts memory into the prompt.
``--set`` passes settings on, for instance ``--set mode=token`` for the paper's plain form of the map.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.engine.events import TurnEnded
from memagent.agent.evaluation.scenarios.distractors import generate
from memagent.agent.home import Home
from memagent.agent.journal import NewTurn
from memagent.agent.memory import Memory
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.chat import ChatModel, Message, Sampling
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.cli.rendering.progress import track

FACTS = Path(__file__).parents[1] / "tests" / "data" / "twelve_facts.json"
_SESSION = 20
_TOP = 3
_REPEATS = 7


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the stored text that answers it, and the answers that count as right, case folded."""

    text: str
    answering_text: str
    answers: list[str]


def main() -> None:
    """Run the command line."""
    arguments = _arguments()
    model = load_chat_model(DEFAULT_MODEL, Home.from_environment().models, notify=print)
    rows = list(_RUNS[arguments.command](arguments, model))
    if arguments.output == "json":
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, padding=(0, 2))
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


def facts(arguments: argparse.Namespace, model: ChatModel) -> Iterator[dict[str, Any]]:
    """Twelve personal facts, spread evenly among statements that are beside the point."""
    data = json.loads(FACTS.read_text(encoding="utf-8"))
    for among in arguments.among:
        others = [*data["statements"], *generate(max(0, among - len(data["statements"])))][:among]
        texts = _spread(others, [fact["text"] for fact in data["facts"]])
        questions = [Question(fact["question"], fact["text"], fact["answers"]) for fact in data["facts"]]
        yield {"facts among": among, **_measure(texts, questions, arguments, model)}


def passkey(arguments: argparse.Namespace, model: ChatModel) -> Iterator[dict[str, Any]]:
    """Three pass keys, each stated once, at several depths of a long text."""
    lines = [line for path in arguments.text for line in path.read_text(encoding="utf-8").splitlines()]
    paragraphs = [line for line in lines if line.strip()]
    text: list[str] = []
    tokens = 0
    while tokens < arguments.tokens:
        text.append(paragraphs[len(text) % len(paragraphs)])
        tokens += model.count_text(text[-1])
    rng = random.Random(0)
    questions = []
    for depth, gate in ((0.9, "north"), (0.5, "east"), (0.1, "south")):
        key = str(rng.randrange(10_000, 100_000))
        statement = f"The pass key of the {gate} gate is {key}. Remember it: {key} is the pass key."
        text.insert(int(depth * len(text)), statement)
        questions.append(Question(f"What is the pass key of the {gate} gate?", statement, [key]))
    yield {"tokens": tokens, **_measure(text, questions, arguments, model)}


def pairs(arguments: argparse.Namespace, model: ChatModel) -> Iterator[dict[str, Any]]:
    """Random UUIDs as keys, each stated with another UUID as its value."""
    rng = random.Random(0)
    items = [(_uuid(rng), _uuid(rng)) for _ in range(arguments.count)]
    texts = [f"The value of the key {key} is {value}." for key, value in items]
    questions = [
        Question(f"What is the value of the key {key}?", text, [value])
        for text, (key, value) in zip(texts, items, strict=True)
    ]
    yield {"pairs": arguments.count, **_measure(texts, questions, arguments, model)}


def cost(arguments: argparse.Namespace, model: ChatModel) -> Iterator[dict[str, Any]]:
    """Time of a generated token with and without three attended chunks, in turns; bytes per token by precision."""
    data = json.loads(FACTS.read_text(encoding="utf-8"))
    question = data["facts"][0]["question"]
    for precision in ("bf16", "int8", "int4"):
        with _memory(
            [*data["statements"][:50], data["facts"][0]["text"]], arguments, model, precision
        ) as memory:
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for attended in (True, False) * _REPEATS:
                seconds[attended].append(_seconds_a_token(memory, model, question, attended=attended))
            with_memory, without = (statistics.median(seconds[which]) for which in (True, False))
            yield {
                "precision": precision,
                "page bytes a token": memory.stats().extras["page_bytes_per_token"],
                "index bytes a token": memory.stats().extras["index_bytes_per_token"],
                "ms a generated token": 1000 * with_memory,
                "without memory": 1000 * without,
                "ratio": with_memory / without,
            }


_RUNS = {"facts": facts, "passkey": passkey, "pairs": pairs, "cost": cost}


def _measure(
    texts: Sequence[str],
    questions: Sequence[Question],
    arguments: argparse.Namespace,
    model: ChatModel,
) -> dict[str, Any]:
    """Store texts, ask questions, and count the right recollections and answers."""
    began = time.monotonic()
    with _memory(texts, arguments, model) as memory:
        reading_seconds = time.monotonic() - began
        stats = memory.stats()
        recalled, recall_seconds, answered = 0, [], 0
        conversation = Conversation(
            memory,
            model,
            "asking",
            Settings(channel=arguments.channel, sampling=Sampling(max_tokens=arguments.reply)),
        )
        for question in track(questions, total=len(questions), label="Asking"):
            began = time.monotonic()
            best = memory.recall(question.text, limit=_TOP)
            recall_seconds.append(time.monotonic() - began)
            recalled += any(item.text in question.answering_text for item in best)
            if arguments.answers:
                reply = next(e.reply for e in conversation.probe(question.text) if isinstance(e, TurnEnded))
                is_right = any(answer in reply.casefold() for answer in question.answers)
                answered += is_right
                if not is_right:
                    Console(stderr=True).print(f"missed: {question.text} -> {reply}", markup=False)
    return {
        "stored tokens": stats.tokens,
        f"in the best {_TOP}": f"{recalled} of {len(questions)}",
        "answered": f"{answered} of {len(questions)}" if arguments.answers else "-",
        "reading s": reading_seconds,
        "recall ms": 1000 * statistics.median(recall_seconds),
        "MB on disk": stats.bytes_on_disk / 1e6,
    }


@contextmanager
def _memory(
    texts: Sequence[str], arguments: argparse.Namespace, model: ChatModel, precision: str | None = None
) -> Iterator[Memory]:
    """A memory in a folder of its own that has read ``texts``, one turn each, twenty a session."""
    settings = {"abstain": "false"} | dict(setting.split("=", 1) for setting in arguments.set)
    if precision is not None:
        settings["precision"] = precision
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Home.from_environment().models)
        turns = [NewTurn(f"day {place // _SESSION}", "user", text) for place, text in enumerate(texts)]
        with Memory.open(
            home, "bench", arguments.backend, settings, make_model=lambda: as_local(model), progress=track
        ) as memory:
            memory.journal.extend(turns)
            memory.catch_up()
            yield memory


def _seconds_a_token(memory: Memory, model: ChatModel, question: str, *, attended: bool) -> float:
    """Return the time from the first to the last of some generated tokens, divided by their number."""
    messages = [
        Message("system", "You tell long stories."),
        Message("user", f"{question} Tell me a long story."),
    ]
    sampling = Sampling(max_tokens=48)
    local = as_local(model)
    with memory.attached(local, question) if attended else _nothing():
        stream = model.stream(messages, sampling)
        text = next(stream)
        began = time.monotonic()
        rest = "".join(stream)
        seconds = time.monotonic() - began
    return seconds / max(1, model.count_text(text + rest) - model.count_text(text))


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _spread(others: Sequence[str], facts: Sequence[str]) -> list[str]:
    """Put the facts among the others at even distances."""
    step = max(1, len(others) // len(facts))
    mixed: list[str] = []
    for place, text in enumerate(facts):
        last = len(others) if place == len(facts) - 1 else (place + 1) * step
        mixed += [*others[place * step : last], text]
    return mixed


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=sorted(_RUNS))
    parser.add_argument(
        "--backend", choices=["rope_map", "titans", "memo", "context_bank"], default="rope_map"
    )
    parser.add_argument("--channel", choices=["model", "text"], default="model")
    parser.add_argument("--among", type=int, nargs="+", default=[200], help="statements besides the facts")
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="files of text, a paragraph a line")
    parser.add_argument("--tokens", type=int, default=100_000, help="length of the text for the pass key")
    parser.add_argument("--count", type=int, default=50, help="key-value pairs")
    parser.add_argument("--reply", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--answers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    if arguments.command == "passkey" and not arguments.text:
        parser.error("passkey needs --text FILE...")
    if arguments.command == "cost" and arguments.backend != "rope_map":
        parser.error("cost measures the pages of rope_map")
    return arguments


if __name__ == "__main__":
    main()
