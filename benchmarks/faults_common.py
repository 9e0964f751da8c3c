"""What the parts of the fault campaign share: what was acknowledged, and whether a home still agrees with it."""

from __future__ import annotations

import json
import os
import random
import string
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from memagent.agent.doctor import examine
from memagent.agent.home import Home
from memagent.agent.memory import Memory, open_journal
from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends.protocol import LocalModel
from memagent.cli.main import main

USER = "ana"
# What no file may hold of a forgotten turn: a stretch of so many bytes that only forgotten turns had.
STRETCH = 8
SETTINGS = {"context_bank": {"capacity": "12", "abstain": "false"}}
"""So few vectors that the bank merges; merged turns have no words, by which a memory that abstains judges them."""
# Words of our own that stand in databases and in notes.
_NAMES = (" session ", " sessions ", " assistant ", "memory", " default ", "outdated")


class Ledger:
    """A file outside of the home to which a worker writes what it tries and what was acknowledged.

    A line is written by one system call, so a kill leaves it whole or not there.
    """

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def note(self, **fields: object) -> None:
        os.write(self._descriptor, (json.dumps(fields) + "\n").encode())


@dataclass
class Expected:
    """What the acknowledged turns and forgettings say that a journal holds.

    Attributes:
        texts: of every acknowledged turn, by seq.
        forgotten: seqs whose forgetting was acknowledged.
        tried: seqs whose forgetting was begun; they may be there or not.
        corrected: texts whose correction was begun, by the seq of the turn; one of both is there.
        items: the values that an item of a key may have, None for no item: the acknowledged one, and one that was begun.
        item_texts: every text that an item was to have.
        faults: contradictions among the acknowledgements themselves.
    """

    texts: dict[int, str] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)
    tried: set[int] = field(default_factory=set)
    corrected: dict[int, str] = field(default_factory=dict)
    items: dict[str, list[str | None]] = field(default_factory=dict)
    item_texts: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, ledgers: Iterable[Path]) -> Expected:
        """Read what all workers wrote."""
        expected = cls()
        for ledger in ledgers:
            last = 0
            for line in ledger.read_text().splitlines():
                entry: dict[str, Any] = json.loads(line)
                if entry["did"] == "turn":
                    seq = entry["seq"]
                    if seq in expected.texts:
                        expected.faults.append(f"the number {seq} was given twice")
                    if seq <= last:
                        expected.faults.append(f"{ledger.name}: {seq} was given after {last}")
                    expected.texts[seq], last = entry["text"], seq
                elif entry["did"] == "try put":
                    expected.items.setdefault(entry["key"], [None]).append(entry["text"])
                    expected.item_texts.update([entry["text"]] if entry["text"] else [])
                elif entry["did"] == "put":
                    expected.items[entry["key"]] = [entry["text"]]
                elif entry["did"] == "correct":
                    expected.tried.add(entry["seq"])
                    expected.corrected[entry["seq"]] = entry["text"]
                else:
                    (expected.forgotten if entry["did"] == "forgot" else expected.tried).update(entry["seqs"])
        return expected


def check(home: Home, expected: Expected, *, user: str = USER) -> list[str]:
    """Hold a home against what was acknowledged; return every fault.

    Every acknowledged turn is there once, in order and unchanged, unless its forgetting was tried; none whose
    forgetting was acknowledged is there; the chain is proved; the doctor says "wrong" nowhere.
    """
    faults = list(expected.faults)
    with open_journal(home, user) as journal:
        seqs = [turn.seq for turn in journal.turns()]
        texts = {turn.seq: turn.text for turn in journal.turns()}
        faults += journal.audit()
    if seqs != sorted(set(seqs)):
        faults.append("the turns are not in order")
    for seq, text in expected.texts.items():
        if seq in texts and texts[seq] != text:
            faults.append(f"turn {seq} holds {texts[seq]!r} instead of {text!r}")
        elif seq not in texts and seq not in expected.forgotten | expected.tried:
            faults.append(f"turn {seq} was acknowledged and is lost")
    faults += [
        f"of turn {seq} and its correction, both or none are there"
        for seq, text in expected.corrected.items()
        if (seq in texts) is (text in texts.values())
    ]
    faults += [f"turn {seq} was forgotten and is there" for seq in expected.forgotten & texts.keys()]
    # Hashing gigabytes of models after every kill would take most of the time.
    without_models = replace(home, models=home.root / "models")
    faults += [f"doctor: {one.message}" for one in examine(without_models) if one.level == "wrong"]
    return faults


def leaks(root: Path, forgotten: Iterable[str], kept: Iterable[str]) -> list[str]:
    """Say which files below ``root`` hold a stretch of bytes that only forgotten texts had, and which stretch.

    A stretch is of letters and spaces: numbers and signs stand beside names in databases by chance.
    """
    windows = _windows(*(text.encode() for text in forgotten))
    # A kept text may stand between others, as a reply that quotes it and the index that sets a date before it show.
    windows = np.setdiff1d(windows, _windows(*(f" {text} ".encode() for text in (*kept, *_NAMES))))
    letters = windows.view(np.uint8).reshape(-1, STRETCH)
    windows = windows[((letters == ord(" ")) | (letters >= ord("A")) & (letters <= ord("z"))).all(1)]
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            stretches = [
                int(window).to_bytes(STRETCH, sys.byteorder) for window in _among(windows, path.read_bytes())
            ]
            found += (
                [f"{path.relative_to(root)} holds {stretches[:3]} of a forgotten turn"] if stretches else []
            )
    return found


def _among(windows: np.ndarray[Any, np.dtype[np.uint64]], content: bytes) -> set[int]:
    """Return those of some sorted windows that a content holds, in time proportional to its size."""
    if not len(windows):
        return set()
    present: set[int] = set()
    for start in range(STRETCH):
        whole = (len(content) - start) // STRETCH * STRETCH
        if whole > 0:
            own = np.frombuffer(content, np.uint64, count=whole // STRETCH, offset=start)
            nearest = windows[np.minimum(np.searchsorted(windows, own), len(windows) - 1)]
            present.update(own[nearest == own].tolist())
    return present


def _windows(*contents: bytes) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return every stretch of ``STRETCH`` bytes of some texts as a number, sorted and once each."""
    parts = [np.empty(0, np.uint64)]
    for content in contents:
        for start in range(STRETCH):
            whole = (len(content) - start) // STRETCH * STRETCH
            if whole > 0:
                parts.append(np.frombuffer(content, np.uint64, count=whole // STRETCH, offset=start))
    return np.unique(np.concatenate(parts))


def sentence(random_: random.Random, words: int = 8) -> str:
    """Return a sentence of words that occur nowhere else."""
    made = ("".join(random_.choices(string.ascii_lowercase, k=random_.randint(4, 9))) for _ in range(words))
    return " ".join(made).capitalize() + "."


@dataclass(frozen=True)
class Models:
    """What memories are opened with: word hashing, and a language model where a backend needs one."""

    make_model: Callable[[], LocalModel]

    def open(self, home: Home, backend: str, **options: Any) -> Memory:
        settings = SETTINGS.get(backend, {}) | options.pop("settings", {})
        return Memory.open(
            home,
            USER,
            backend,
            settings,
            make_embedder=HashingEmbedder,
            make_model=self.make_model,
            **options,
        )


def forked(work: Callable[[], None]) -> int:
    """Run work in a forked process and return its wait status; an exception is printed and gives exit code 1."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except Exception:  # noqa: BLE001 - whatever it is, the parent process is told by the exit code
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def command_line(*arguments: str) -> None:
    """Run a command of memagent in this process, a forked one, and end the process with the command's exit code."""
    sys.argv = ["memagent", *arguments]
    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))


def spread(random_: random.Random, total: int) -> Iterator[float]:
    """Yield so many moments between 0 and 1, in random order, evenly spread."""
    moments = [(place + random_.random()) / total for place in range(total)]
    random_.shuffle(moments)
    return iter(moments)
