"""Time to the first token of a reply, with the history kept and with the whole prompt read again, with the default model.

    python benchmarks/first_token.py
    python benchmarks/first_token.py --history 2000 --memory none rag titans --repeats 9 --output json

Each question is answered twice in a row, once each way, in turn as first and second. The reply of the second kind is stored,
so that the next question's new tokens are that reply, the question before it, the new question, the date and what was recalled.
``allowed`` is time of recall + new tokens / prefill rate + 0.15 s. The prefill rate is measured in between, on 512 tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.engine.events import Recalled, TurnEnded
from memagent.agent.engine.prompt import Budget
from memagent.agent.evaluation.scenarios.distractors import generate
from memagent.agent.home import Home
from memagent.agent.journal import NewTurn
from memagent.agent.memory import Memory
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.chat import Sampling
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.agent.models.local import LocalChatModel
from memagent.agent.models.prefix_cache import PrefixCache
from memagent.cli.rendering.progress import track

FACTS = Path(__file__).parents[1] / "tests" / "data" / "twelve_facts.json"
_OVERHEAD_SECONDS = 0.15
_RATE_TOKENS = 512
_STORED_STATEMENTS = 60
_REPLY_TOKENS = 24


def main() -> None:
    """Run the command line."""
    arguments = _arguments()
    model = load_chat_model(DEFAULT_MODEL, Home.from_environment().models, notify=print)
    assert isinstance(model, LocalChatModel)
    cases = [(memory, history) for memory in arguments.memory for history in arguments.history]
    rows = [
        measure(model, memory, history, arguments.repeats)
        for memory, history in track(cases, total=len(cases), label="Measuring")
    ]
    if arguments.output == "json":
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, padding=(0, 2))
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=150).print(table)


def measure(model: LocalChatModel, backend: str, history: int, repeats: int) -> dict[str, Any]:
    """Measure one memory with one length of history; times are medians in seconds.

    Args:
        model: the default model.
        backend: the memory; one with a model channel acts inside the model.
        history: tokens of the session before the first question.
        repeats: the number of questions; the first one, which is not counted, reads the whole history both ways.
    """
    kept, nothing = PrefixCache[Any](), PrefixCache[Any](max_tokens=0)
    # Room for more than the default, so that replies do not make the longest history too long.
    budget = Budget(recent=2 * history + 1000)
    settings = Settings(budget=budget, sampling=Sampling(max_tokens=_REPLY_TOKENS))
    samples: list[dict[str, float]] = []
    with _memory(model, backend, history) as memory:
        questions = cycle(fact["question"] for fact in json.loads(FACTS.read_text("utf-8"))["facts"])
        for number, question in zip(range(repeats + 1), questions, strict=False):
            session = "talk" if history else f"talk {number}"
            conversation = Conversation(memory, model, session, settings)
            sample: dict[str, float] = {}
            for with_kept in (True, False)[:: 1 if number % 2 else -1]:
                model.prefix_reader.cache = kept if with_kept else nothing
                ended, tokens = _answer(conversation, model, question)
                kind = "kept" if with_kept else "whole"
                sample |= {kind: ended.seconds.first_token, f"tokens {kind}": tokens}
            sample |= {"recall": ended.seconds.recall, "rate": _prefill_rate(model)}
            if number:
                samples.append(sample)
            model.prefix_reader.cache = kept  # it has read this prompt already
            list(conversation.send(question))
    medians = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
    allowed = medians["recall"] + medians["tokens kept"] / medians["rate"] + _OVERHEAD_SECONDS
    return {
        "memory": f"{backend} ({conversation.channel})",
        "history": history,
        "prompt": round(medians["tokens whole"]),
        "new": round(medians["tokens kept"]),
        "whole": medians["whole"],
        "kept": medians["kept"],
        "ratio": statistics.median(sample["whole"] / sample["kept"] for sample in samples),
        "recall": medians["recall"],
        "prefill rate": round(medians["rate"]),
        "allowed": allowed,
    }


@contextmanager
def _memory(model: LocalChatModel, backend: str, history: int) -> Iterator[Memory]:
    """A memory in a folder of its own: facts among statements in other sessions, and a session of some length."""
    facts = json.loads(FACTS.read_text("utf-8"))
    texts = [*(fact["text"] for fact in facts["facts"]), *facts["statements"][:_STORED_STATEMENTS]]
    turns = [NewTurn("before", "user", text) for text in texts]
    talk = iter(generate(500, seed=1))
    tokens = 0
    for number in count():
        text = " ".join(next(talk) for _ in range(3))
        tokens += model.count_text(text) + 5
        if tokens > history and number % 2 == 0:
            break
        turns.append(NewTurn("talk", "assistant" if number % 2 else "user", text))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Home.from_environment().models)
        with Memory.open(home, "bench", backend, make_model=lambda: as_local(model)) as memory:
            memory.journal.extend(turns)
            memory.catch_up()
            yield memory


@contextmanager
def _prompt_tokens_read(model: LocalChatModel) -> Iterator[list[int]]:
    """Yield a list that grows by the number of tokens of each forward pass that reads more than one."""
    sizes: list[int] = []

    def add(module: Any, positional: Any, named: dict[str, Any]) -> None:
        tokens = named["input_ids"].shape[1]
        if tokens > 1:
            sizes.append(tokens)

    hook = model.model.base_model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()


def _answer(conversation: Conversation, model: LocalChatModel, question: str) -> tuple[TurnEnded, int]:
    """Answer a question without storing it; return how the turn ended, and the tokens of its prompt that were read."""
    with _prompt_tokens_read(model) as sizes:
        for event in conversation.probe(question):
            if isinstance(event, Recalled):
                sizes.clear()  # what memory itself has read
            if isinstance(event, TurnEnded):
                return event, sum(sizes)
    raise AssertionError("a turn ends with TurnEnded")


def _prefill_rate(model: LocalChatModel) -> float:
    """Return how many tokens a second the model reads."""
    ids = torch.randint(1000, 2000, (1, _RATE_TOKENS), device=model.device)
    began = time.monotonic()
    with torch.inference_mode():
        model.model(input_ids=ids, logits_to_keep=1)
    return _RATE_TOKENS / (time.monotonic() - began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--memory", nargs="+", default=["none", "rag", "titans"], help="a model channel is used"
    )
    parser.add_argument(
        "--history", type=int, nargs="+", default=[0, 500, 2000], help="tokens before a question"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    return parser.parse_args()


if __name__ == "__main__":
    main()
