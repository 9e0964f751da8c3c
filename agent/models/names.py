"""What a model's name can be besides a name of the catalogue: a path, a hub id, or a provider string."""

from __future__ import annotations

import re
from pathlib import Path

PROVIDER = re.compile(r"[a-z][a-z0-9_]*:(?!//).+")
"""``provider:model`` of LangChain, such as ``ollama:llama3.2``."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""``owner/name`` on the Hugging Face hub."""


def existing_path(name: str) -> Path | None:
    """Return the path of that name, if there is a file or folder."""
    if not name:  # Path("") is the current folder
        return None
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # no path can have that name
        return None
