"""Writing a message in the person's editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from memagent.backends.errors import SettingError


def edit(app: App[Any], text: str) -> str:
    """Let the person change a text in the editor that VISUAL or EDITOR names, and return what it is then.

    Args:
        app: is suspended meanwhile.
        text: what the editor begins with.

    Raises:
        SettingError: the editor cannot be used.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    failure: Exception | None = None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "message.md")
        file.write_text(text, encoding="utf-8")
        try:
            command = [*shlex.split(editor), str(file)]
            with app.suspend():
                try:  # inside: an error that leaves the suspension would leave the screen suspended
                    subprocess.run(command, check=True)
                except (OSError, subprocess.CalledProcessError) as error:
                    failure = error
            if failure is None:
                return file.read_text(encoding="utf-8", errors="replace").rstrip("\n")
        except (OSError, ValueError, SuspendNotSupported) as error:
            failure = error
    raise SettingError(
        f"The editor {editor!r:.200} cannot be used: {failure}. VISUAL or EDITOR names another one."
    )
