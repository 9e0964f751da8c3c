"""An agent of LangChain whose tools keep notes in a LangGraph store, which a second process still has.

python examples/langgraph_store.py [BACKEND]

The model is a fake one that calls the tools, so nothing is downloaded but the embedder (none with the backend `bm25`). Runs in
a home of its own, so your memory is untouched.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from memagent import Home
from memagent.langchain import MemagentStore

NOTES = ("notes",)


@tool
def save_note(name: str, text: str, runtime: ToolRuntime[Any, Any]) -> str:
    """Save a note about the user under a name; the same name again replaces it."""
    assert runtime.store is not None
    runtime.store.put(NOTES, name, {"text": text})
    return "Saved."


@tool
def search_notes(question: str, runtime: ToolRuntime[Any, Any]) -> str:
    """Search the notes about the user."""
    assert runtime.store is not None
    return "\n".join(item.value["text"] for item in runtime.store.search(NOTES, query=question, limit=1))


class Model(GenericFakeChatModel):
    """Stands for a model that calls tools: "openai:gpt-5", say."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self


def messages(*calls: tuple[str, dict[str, str]]) -> Iterator[AIMessage]:
    """Yield what the model says: a call of each tool, then a last message."""
    for number, (name, arguments) in enumerate(calls):
        yield AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": str(number)}])
    yield AIMessage("Done.")


CONVERSATIONS = {
    "monday": (
        ("save_note", {"name": "dog", "text": "The user's dog is called Biscuit."}),
        ("save_note", {"name": "home", "text": "The user lives in Porto."}),
        ("save_note", {"name": "dog", "text": "The user's dog is called Rex."}),
    ),
    "tuesday": (("search_notes", {"question": "What is the dog called?"}),),
}


def talk(day: str, folder: str, backend: str) -> None:
    home = Home(Path(folder), Home.from_environment().models)
    with MemagentStore.open("ana", backend=backend, home=home) as store:
        model = Model(messages=messages(*CONVERSATIONS[day]))
        agent: Any = create_agent(model, [save_note, search_notes], store=store)
        result = agent.invoke({"messages": [{"role": "user", "content": "Hello!"}]})
        print(f"[{day}] tools: {[message.text for message in result['messages'] if message.type == 'tool']}")
        print(f"[{day}] store: {sorted((item.key, item.value['text']) for item in store.search(()))}")


def main(arguments: Sequence[str]) -> None:
    if len(arguments) == 3:  # one of the two processes
        talk(*arguments)
        return
    backend = arguments[0] if arguments else "rag"
    with tempfile.TemporaryDirectory() as folder:
        for day in CONVERSATIONS:
            process = [sys.executable, __file__, day, folder, backend]
            print(subprocess.run(process, check=True, capture_output=True, text=True).stdout, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
