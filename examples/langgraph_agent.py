"""A LangChain agent whose memory lasts: a fact of one thread and process is known in another.

python examples/langgraph_agent.py [--model MODEL] [--backend BACKEND] [--channel text|model|both]

It has no checkpointer, so nothing but memory connects the two threads. It runs in a home of its own, so your memory is
untouched. With the model `echo` nothing is downloaded but the embedder, and the answer shows what memory puts into the
prompt. `--backend titans --channel model` puts memory inside the local model, and nothing into the prompt.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from langchain.agents import create_agent

from memagent import Home
from memagent.langchain import ChatMemagent, MemoryContext, MemoryMiddleware, MemoryPool

CONVERSATIONS = (("monday", "My dog is called Biscuit."), ("tuesday", "What is my dog called?"))


def talk(thread: str, text: str, options: argparse.Namespace) -> str:
    """Send a message in a thread, and return the agent's reply."""
    home = Home(Path(options.home), Home.from_environment().models)
    with MemoryPool(home, backend=options.backend, model=options.model) as pool:
        agent = create_agent(
            ChatMemagent(memory=pool),  # or any other chat model of LangChain
            middleware=[MemoryMiddleware(pool, channel=options.channel)],
            context_schema=MemoryContext,
        )
        result = agent.invoke(
            {"messages": [{"role": "user", "content": text}]},
            {"configurable": {"thread_id": thread}},
            context=MemoryContext(user="ana"),
        )
    return str(result["messages"][-1].text)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--backend", default="rag")
    parser.add_argument("--channel", default="text")
    parser.add_argument("--home", help=argparse.SUPPRESS)
    parser.add_argument("--thread", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.thread:  # one of the two processes
        print(talk(options.thread, dict(CONVERSATIONS)[options.thread], options))
        return
    with tempfile.TemporaryDirectory() as folder:
        for thread, text in CONVERSATIONS:
            print(f"[{thread}] ana: {text}")
            process = [sys.executable, __file__, *arguments, "--home", folder, "--thread", thread]
            reply = subprocess.run(process, check=True, capture_output=True, text=True).stdout
            print(f"          agent: {reply.strip()}")


if __name__ == "__main__":
    main(sys.argv[1:])
