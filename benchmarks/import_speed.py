"""Time and memory that importing a large export of ChatGPT takes.

    python benchmarks/import_speed.py                # an export of 1 GB
    python benchmarks/import_speed.py --megabytes 50

The file is generated: conversations of 30 messages of 80 random words, with the fields around them that such exports have.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def conversation(number: int, words: list[str], generator: random.Random) -> dict[str, Any]:
    """Return one conversation as ChatGPT exports it."""
    nodes = {}
    for place in range(30):
        text = " ".join(generator.choices(words, k=80))
        nodes[f"n{place}"] = {
            "id": f"n{place}",
            "message": {
                "id": f"n{place}",
                "author": {"role": "assistant" if place % 2 else "user", "name": None, "metadata": {}},
                "create_time": 1.7e9 - number * 1000 + place,
                "content": {"content_type": "text", "parts": [text]},
                "status": "finished_successfully",
                "metadata": {"model_slug": "gpt", "citations": [{"start": 1, "url": text[:40]}] * 3},
                "recipient": "all",
            },
            "parent": f"n{place - 1}" if place else None,
            "children": [f"n{place + 1}"],
        }
    return {
        "id": f"c{number}",
        "title": f"Chat {number % 50}",
        "create_time": 1.7e9 - number * 1000,
        "mapping": nodes,
        "current_node": "n29",
    }


def generate(path: Path, size: int) -> None:
    """Write an export of about so many bytes."""
    generator = random.Random(1)
    words = ["".join(generator.choices("abcdefghijklmnop", k=generator.randint(2, 9))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as out:
        out.write("[")
        number = 0
        while out.tell() < size:
            out.write(("," if number else "") + json.dumps(conversation(number, words, generator)))
            number += 1
        out.write("]")


def main() -> None:
    """Generate, import twice, and print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the export (default: 1000)")
    size = parser.parse_args().megabytes * 10**6
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "conversations.json")
        generate(path, size)
        environment = os.environ | {"MEMAGENT_HOME": str(Path(temporary, "home"))}
        command = [
            sys.executable,
            "-m",
            "memagent.cli.main",
            "import",
            "--from",
            "chatgpt",
            str(path),
            "--backend",
            "none",
        ]
        for label, options in (("checking alone", ["--dry-run"]), ("importing", []), ("importing again", [])):
            start = time.perf_counter()
            subprocess.run([*command, *options], env=environment, check=True)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
            print(f"{label:<16} {seconds:7.1f} s   peak memory up to here {peak:,} MiB", flush=True)


if __name__ == "__main__":
    main()
