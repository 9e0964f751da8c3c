"""A user's facts, and the commands that remember and recall them."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from memagent.agent.home import Home
from memagent.agent.memory import open_journal
from memagent.cli.main import app

FACT, QUESTION = "My dog is called Biscuit.", "What is my dog called?"


def memagent(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


def recalled(query: str, *arguments: str) -> list[str]:
    done = memagent("recall", query, "--output", "json", *arguments)
    assert done.exit_code == 0, done.exception
    return [item["text"] for item in json.loads(done.stdout)]


def stored_turns(home: Home, user: str = "default") -> list[str]:
    """What the user's journal holds."""
    with open_journal(home, user) as journal:
        return [f"{turn.seq} {turn.session}/{turn.role}: {turn.text}" for turn in journal.turns()]


def files_holding(home: Home, text: str) -> list[Path]:
    needle = text.encode()
    return [path for path in home.root.rglob("*") if path.is_file() and needle in path.read_bytes()]
