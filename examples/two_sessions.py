"""The main job from Python: tell something in one session, ask for it in another.

python examples/two_sessions.py [MODEL]

Runs in a home of its own, so your memory is untouched. With the model `echo` nothing is downloaded
but the embedder, and the answer shows what memory puts into the prompt.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from memagent import Agent, Home


def main(model: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Home.from_environment().models)
        for session, text in (("monday", "My dog is called Biscuit."), ("tuesday", "What is my dog called?")):
            # A new agent each time, as a new process would have: only the home folder is shared.
            with Agent.open(user="ana", backend="rag", model=model, home=home) as agent:
                reply = agent.ask(text, session=session)
            print(f"[{session}] ana: {text}")
            for item in reply.recollections:
                print(f"          remembered from {item.session}: {item.text}  ({item.why})")
            print(f"          memagent: {reply.text}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "qwen2.5-coder-0.5b")
