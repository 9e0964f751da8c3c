"""Six facts to remember, and what a map holds and recalls of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from memagent.backends.rope_map.backend import RopeMap
from tests.backends import turns
from tests.backends.rope_map.tiny import tokens

FACTS = [*turns.FACTS, "The sea at Tavira is warm in June."]
QUESTION = "What is my dog called?"
PROMPT = tokens(8, seed=1)


def by_turn(backend: RopeMap) -> dict[int, list[bytes]]:
    """Return the stored bytes of each turn's chunks, by seq."""
    stored: dict[int, list[bytes]] = {}
    codes = codes_below(backend._resources.workspace / "pages")
    for number in backend._chunks.numbers():
        stored.setdefault(backend._chunks[number].turn.seq, []).append(codes[number])
    return stored


def codes_below(folder: Path) -> dict[int, bytes]:
    """Return the stored codes of each chunk in the page files of a folder, by chunk number."""
    codes: dict[int, bytes] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for number, (start, end, _) in json.loads(file.metadata()["chunks"]).items():
                parts = [
                    file.get_slice(name)[start:end].contiguous() for name in ("keys.codes", "values.codes")
                ]
                codes[int(number)] = b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)
    return codes


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "lock" not in path.name
    }


def scores(backend: RopeMap, query: str = QUESTION) -> dict[str, float]:
    return {item.text: item.score for item in backend.recall(query, limit=50)}
