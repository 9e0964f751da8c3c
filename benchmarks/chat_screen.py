"""How soon the full-screen chat is there, and how soon it shows a key that is pressed, idle and while a model replies.

python benchmarks/chat_screen.py [--model smollm2-135m] [--starts 5] [--keys 40] [--output json]

The program runs in a pseudo-terminal. "Window" is the time from the start of the process until the field for messages is
shown; "ready" until the model is loaded. "Bare Python with Textual" is an empty Textual program in the same terminal, as the
floor. A key's time is from writing it into the terminal until the terminal shows it. Prints medians and the slowest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.terminal import Terminal, memagent

_EMPTY = "from textual.app import App; from textual.widgets import Input\nclass A(App):\n def compose(self): yield Input(placeholder='Write')\nA().run()"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def start(command: Sequence[str], environment: dict[str, str], texts: Sequence[str]) -> list[float]:
    """Start a program; return when it shows each of some texts, in seconds from its start."""
    began = time.monotonic()
    times = []
    with Terminal(command, environment) as terminal:
        for text in texts:
            terminal.wait_for(text)
            times.append(time.monotonic() - began)
    return times


def keys(terminal: Terminal, count: int) -> list[float]:
    """Press keys one after the other; return how long each took to be shown, in seconds."""
    written, times = "", []
    for number in range(count):
        key = _ALPHABET[number % len(_ALPHABET)]
        written += key
        terminal.type(key)
        times.append(terminal.wait_for(written))
        pause = time.monotonic() + 0.05
        while time.monotonic() < pause:
            terminal.read(0.01)
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return the median and the slowest, in milliseconds."""
    return {
        "median_ms": round(1000 * statistics.median(times), 1),
        "slowest_ms": round(1000 * max(times), 1),
        "count": len(times),
    }


def measure(model: str, starts: int, key_count: int) -> dict[str, dict[str, float]]:
    """Measure with one model."""
    results: dict[str, list[float]] = {"empty": [], "window": [], "ready": []}
    with tempfile.TemporaryDirectory() as home:
        environment = {"MEMAGENT_HOME": home, "MEMAGENT_CONFIG": os.path.join(home, "none.toml")}
        command = memagent("chat", "--model", model, "--backend", "in_memory", "--temperature", "1")
        for _ in range(starts):
            results["empty"] += start([sys.executable, "-c", _EMPTY], environment, ["Write"])
            window, ready = start(command, environment, ["Write a message", f"{model} with"])
            results["window"].append(window)
            results["ready"].append(ready)
        with Terminal(command, environment) as terminal:
            terminal.wait_for(f"{model} with")
            results["key, idle"] = keys(terminal, key_count)
            results["key, replying"] = []
            while len(results["key, replying"]) < key_count:
                terminal.type("\x03")
                terminal.wait_for("Write a message")
                terminal.type("Tell me a very long story about a dog and a cat.\r")
                terminal.wait_for("replying")
                times = keys(terminal, min(10, key_count))
                if "replying" in terminal.text():  # it has not ended in the meantime
                    results["key, replying"] += times
                    terminal.type("\x1b")
                terminal.wait_for(lambda: "replying" not in terminal.text())
    return {name: summary(times) for name, times in results.items()}


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--keys", type=int, default=40)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    options = parser.parse_args()
    results = measure(options.model, options.starts, options.keys)
    if options.output == "json":
        print(json.dumps(results, indent=2))
        return
    for name, row in results.items():
        print(
            f"{name:<14} median {row['median_ms']:>7} ms, slowest {row['slowest_ms']:>7} ms, {row['count']} times"
        )


if __name__ == "__main__":
    main()
