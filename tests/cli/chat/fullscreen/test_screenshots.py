"""The pictures of the full-screen chat in docs/ are what it shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]


def test_the_pictures_in_docs_are_fresh() -> None:
    command = [sys.executable, str(ROOT / ".ci" / "screenshots.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
