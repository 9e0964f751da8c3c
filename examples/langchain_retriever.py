"""A memory as the retriever of a LangChain chain: question -> notes -> prompt -> model -> answer.

python examples/langchain_retriever.py [MODEL]

Runs in a home of its own, so your memory is untouched. With the model `echo` nothing is downloaded but the embedder, and
the answer is the prompt.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from memagent import Home
from memagent.langchain import ChatMemagent, MemagentRetriever, MemoryPool

NOTES = ("I live in Porto.", "My dog is called Biscuit.", "My sister Rita plays the cello.")
PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer from the notes, in a few words."),
        ("user", "Notes:\n{notes}\n\nQuestion: {question}"),
    ]
)


def as_notes(documents: list[Document]) -> str:
    """Write each document as a line with its date."""
    lines = [f"- [{item.metadata['created_at'][:10]}] {item.page_content}" for item in documents]
    return "\n".join(lines) or "(none)"


def main(arguments: Sequence[str]) -> None:
    model = arguments[0] if arguments else "qwen2.5-coder-0.5b"
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Home.from_environment().models)
        with MemoryPool(home, backend="rag", model=model) as pool:
            with pool.memory("ana") as memory:
                for note in NOTES:
                    memory.remember("diary", "user", note)
            retriever = MemagentRetriever(memory=pool, user="ana", k=2)
            chain = (
                {"notes": retriever | as_notes, "question": RunnablePassthrough()}
                | PROMPT
                | ChatMemagent(memory=pool)
                | StrOutputParser()
            )
            for question in ("What is my dog called?", "What does my sister play?"):
                print(f"{question}\n  {chain.invoke(question)}")


if __name__ == "__main__":
    main(sys.argv[1:])
