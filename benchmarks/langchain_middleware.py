"""What memory adds to one run of a LangChain agent, without the model's time.

python benchmarks/langchain_middleware.py [--backend rag] [--turns 500] [--runs 30]

An agent whose model replies at once is run without and with memory, each message in a thread of its own. Prints the median in
milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from memagent import Home, NewTurn
from memagent.langchain import MemoryContext, MemoryMiddleware, MemoryPool

TEXT = "On day {number} I bought {number} apples and met friend number {number} at the harbour."
QUESTION = "Whom did I meet at the harbour on day {number}?"


def milliseconds(agent: Any, runs: int) -> float:
    """Return the median time of a run."""
    times = []
    for number in range(runs + 1):
        message = {"role": "user", "content": QUESTION.format(number=number)}
        began = time.perf_counter()
        agent.invoke(
            {"messages": [message]},
            {"configurable": {"thread_id": f"thread {number}"}},
            context=MemoryContext("ana"),
        )
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])  # the first run loads the embedder


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="rag")
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    model = FakeListChatModel(responses=["I do not know."])
    print(
        f"without memory: {milliseconds(create_agent(model, context_schema=MemoryContext), options.runs):.1f} ms"
    )
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Home.from_environment().models)
        with MemoryPool(home, backend=options.backend) as pool:
            with pool.memory("ana") as memory:
                texts = [TEXT.format(number=number) for number in range(options.turns)]
                memory.journal.extend([NewTurn("diary", "user", text) for text in texts])
            agent = create_agent(model, middleware=[MemoryMiddleware(pool)], context_schema=MemoryContext)
            print(f"{options.backend}, {options.turns} turns: {milliseconds(agent, options.runs):.1f} ms")


if __name__ == "__main__":
    main()
