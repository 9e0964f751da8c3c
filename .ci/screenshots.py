"""The pictures of the full-screen chat in docs/: the same conversation each time, with a model whose replies are prepared.

python .ci/screenshots.py            writes the pictures anew
python .ci/screenshots.py --check    exits with 1 if a picture is not what would be written

Other versions of Textual draw other pictures, so --check compares only with the version of constraints.txt.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from unittest.mock import patch

import textual
from textual.pilot import Pilot

from memagent.agent.engine import conversation as engine
from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.models.fakes import ScriptedModel
from memagent.cli.chat.chat import Chat, ChatOptions
from memagent.cli.chat.fullscreen.app import ChatApp
from memagent.cli.chat.fullscreen.message_input import MessageInput

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 3, 6, 18, 30, tzinfo=UTC)
_PAST = (
    (33, "january", "My dog is called Biscuit. He is afraid of the vacuum cleaner."),
    (33, "january", "I work as a nurse at the children's hospital in Lyon."),
    (12, "vet", "Biscuit has an allergy to chicken, says the vet."),
    (2, "move", "I moved from Lyon to Ghent; the new hospital is closer to the sea."),
)
_TALK = (
    (
        "What may Biscuit not eat?",
        "Biscuit is allergic to **chicken**. So no:\n\n- chicken treats\n- broth with chicken fat",
    ),
    ("Where do I work now?", "At a hospital in **Ghent**, since you moved from Lyon."),
)


class _Clock:
    """Counts in place of the time that passes, so that each picture shows the same durations."""

    def __init__(self) -> None:
        self._ticks = count()

    def monotonic(self) -> float:
        return next(self._ticks) * 0.02


async def _wait(pilot: Pilot[None], app: ChatApp) -> None:
    """Wait until nothing is in progress."""
    for _ in range(3):
        while app.pane.chat is None or app.pane.is_busy:
            await pilot.pause(0.02)
        await pilot.pause(0.05)
    await pilot.wait_for_scheduled_animations()


async def pictures() -> dict[str, str]:
    """Return the pictures by file name, as SVG."""
    shots: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(engine, "time", _Clock()),
        Memory.open(
            Home(Path(folder), Path(folder, "models")), "ana", "rag", make_embedder=HashingEmbedder
        ) as memory,
    ):
        for days, session, text in _PAST:
            memory.remember(session, "user", text, created_at=NOW - timedelta(days=days))
        model = ScriptedModel([reply for _, reply in _TALK])
        talk = Conversation(memory, model, "friday", Settings(clock=lambda: NOW))
        app = ChatApp(lambda frontend: Chat(talk, ChatOptions(user="ana", backend="rag")))
        async with app.run_test(size=(124, 34)) as pilot:
            app.query_one(MessageInput).cursor_blink = False
            await _wait(pilot, app)
            await pilot.press("f2")
            for question, _ in _TALK:
                await pilot.press(*question, "enter")
                await _wait(pilot, app)
            shots["chat.svg"] = app.export_screenshot(title="memagent chat --session friday")
            await pilot.press("f3")
            await pilot.pause(0.3)
            shots["chat_sessions.svg"] = app.export_screenshot(title="memagent chat: sessions")
            await pilot.press("escape")
            app.leave()
    return shots


def main() -> int:
    """Write or check the pictures."""
    drawn = asyncio.run(pictures())
    if "--check" not in sys.argv:
        for name, svg in drawn.items():
            (ROOT / "docs" / name).write_text(svg, encoding="utf-8")
        print(f"Wrote {', '.join(f'docs/{name}' for name in drawn)}.")
        return 0
    pinned = re.search(
        r"^textual==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    if pinned is None or pinned[1] != textual.__version__:
        print(f"Textual {textual.__version__} draws other pictures than the version of constraints.txt.")
        return 0
    outdated = [
        name for name, svg in drawn.items() if (ROOT / "docs" / name).read_text(encoding="utf-8") != svg
    ]
    for name in outdated:
        print(f"docs/{name} is outdated: run python .ci/screenshots.py", file=sys.stderr)
    return bool(outdated)


if __name__ == "__main__":
    sys.exit(main())
