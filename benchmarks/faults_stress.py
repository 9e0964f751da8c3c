"""Many processes that do everything at once on one user's home, and a model that knows what they were told."""

from __future__ import annotations

import io
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from uuid import uuid4

from faults_common import USER, Expected, Ledger, Models, check, command_line, forked, leaks, sentence

from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.engine.events import Remembered, TurnBegan
from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewTurn
from memagent.agent.journal.export import export
from memagent.agent.memory import Memory, open_journal
from memagent.agent.models.chat import ChatModel, Sampling
from memagent.agent.models.fakes import EchoModel
from memagent.backends.errors import BusyError, MemagentError

CHAT_BACKENDS = ("rag", "in_memory")


class Worker:
    """One process of the mix, until its time is up.

    Args:
        outside: a folder outside of the home, for exports, backups and the ledger.
        model: what it chats with; a model in this process also works the memories that need one.
    """

    def __init__(
        self, home: Home, outside: Path, number: int, models: Models, model: ChatModel | None
    ) -> None:
        self.home = home
        self.outside = outside
        self.number = number
        self.name = f"worker {number}"
        self.models = models
        self.model = model
        self.random = random.Random(number)
        self.ledger = Ledger(outside / f"{number}.ledger")
        self.own: list[int] = []
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self, seconds: float, chats: bool) -> None:
        """Chat, or run one short command after the other, and write what was done."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.attempt(lambda: self.chat(end) if chats else self.command())
        report = {"done": self.done, "faults": self.faults}
        (self.outside / f"{self.name}.json").write_text(json.dumps(report))

    def attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BusyError:
            self.done["busy"] += 1
        except MemagentError as error:
            self.faults.append(f"{self.name}: {type(error).__name__}: {error}")
            if len(self.faults) > 50:
                raise

    # a long-lived process that holds a memory

    def chat(self, end: float) -> None:
        backend = self.random.choice(("rope_map", "titans") if self.model else CHAT_BACKENDS)
        try:
            memory = self.models.open(self.home, backend, wait_seconds=2.0)
        except BusyError:
            # No command here: a process that has used Chroma's threads cannot be forked.
            self.beside(backend)
            return
        with memory:
            session = f"{self.number}.{self.random.randint(1, 5)}"
            sampling = Sampling(max_tokens=8)
            conversation = Conversation(
                memory, self.model or EchoModel(), session, Settings(sampling=sampling)
            )
            for _ in range(self.random.randint(3, 30)):
                if time.monotonic() > end:
                    break
                self.say(conversation)
                if self.random.random() < 0.15:
                    self.forget(memory)

    def beside(self, backend: str) -> None:
        """Read a memory that another process holds, and write into the journal."""
        with self.models.open(self.home, backend, read_only=True) as memory:
            memory.recall("What did I tell you?")
        with open_journal(self.home, USER) as journal:
            turn = journal.append(f"{self.number}.0", "user", sentence(self.random))
            self.acknowledge(turn.seq, turn.text)
        self.done["beside"] += 1

    def say(self, conversation: Conversation) -> None:
        text = sentence(self.random) if self.random.random() < 0.7 else "What did I tell you?"
        for event in conversation.send(text):
            if isinstance(event, TurnBegan):
                self.acknowledge(event.turn.seq, text)
            elif isinstance(event, Remembered) and event.turn.role == "assistant":
                self.acknowledge(event.turn.seq, event.turn.text)
        self.done["chat turns"] += 1

    def forget(self, memory: Memory) -> None:
        seqs = self.some_of_own()
        self.ledger.note(did="try", seqs=seqs)
        done = memory.forget(seqs)
        self.ledger.note(did="forgot", seqs=[*done.turns, *done.replies])
        self.done["forgettings"] += 1

    # one short process after the other

    def command(self) -> None:
        choices = [
            (6, self.remember),
            (2, self.forget_by_command),
            (
                3,
                lambda: self.memagent(
                    "recall", "What did I tell you?", "-b", self.random.choice(CHAT_BACKENDS)
                ),
            ),
            (1, lambda: self.memagent("sessions", "list")),
            (1, lambda: self.memagent("backends", "stats", self.random.choice(CHAT_BACKENDS))),
            (1, self.export),
            (1, self.back_up),
            (1, self.import_),
            (1, lambda: self.memagent("backends", "rebuild", self.random.choice(CHAT_BACKENDS))),
            (1, lambda: self.memagent("backends", "consolidate", self.random.choice(CHAT_BACKENDS))),
            (1, lambda: self.memagent("doctor", *self.random.choice(((), ("--mend",))))),
        ]
        self.random.choices([act for _, act in choices], [weight for weight, _ in choices])[0]()

    def remember(self) -> None:
        text = sentence(self.random)
        said = self.memagent(
            "remember", text, "-s", f"{self.number}.0", "-b", self.random.choice(CHAT_BACKENDS), "-o", "json"
        )
        if said:
            self.acknowledge(json.loads(said)["seqs"][0], text)

    def forget_by_command(self) -> None:
        seqs = self.some_of_own()
        if not seqs:
            return
        self.ledger.note(did="try", seqs=seqs)
        options = [word for seq in seqs for word in ("--seq", str(seq))]
        said = self.memagent("forget", *options, "--yes", "-o", "json")
        if said:
            done = json.loads(said)
            self.ledger.note(did="forgot", seqs=[*done["turns"], *done["replies"]])

    def export(self) -> None:
        file = str(self.outside / f"{self.name}.jsonl")
        self.memagent("export", file)
        self.memagent("export", "--verify", file)

    def back_up(self) -> None:
        file = self.outside / f"{uuid4().hex}.sqlite3"
        self.memagent("backup", str(file))
        if file.exists():
            with Journal(file, USER) as copy:
                self.faults += [f"{self.name}: a backup: {fault}" for fault in copy.audit()]
            for path in self.outside.glob(f"{file.name}*"):
                path.unlink()

    def import_(self) -> None:
        file = self.outside / f"{uuid4().hex}.sqlite3"
        with Journal(file, USER) as other:
            turns = other.extend(
                [NewTurn(f"{self.number}.9", "user", sentence(self.random)) for _ in range(3)]
            )
            text = io.StringIO()
            export(other, text)
        source = file.with_suffix(".jsonl")
        source.write_text(text.getvalue())
        if self.memagent("import", str(source), "-b", "in_memory"):
            with open_journal(self.home, USER, read_only=True) as journal:
                places = journal.seen_ids([turn.id for turn in turns])
            for turn in turns:
                self.acknowledge(places[turn.id], turn.text)
        for path in self.outside.glob(f"{file.stem}*"):
            path.unlink()

    def memagent(self, *arguments: str) -> str:
        """Run a command in a process of its own; return its output, or nothing if it was told to come back later."""
        out, err = self.outside / f"{self.name}.out", self.outside / f"{self.name}.err"

        def work() -> None:
            with (
                out.open("w") as stdout,
                err.open("w") as stderr,
                redirect_stdout(stdout),
                redirect_stderr(stderr),
            ):
                command_line(*arguments)

        status = forked(work)
        self.done[arguments[0]] += 1
        code, errors = os.waitstatus_to_exitcode(status), err.read_text()
        if code != 0 and (
            "is in use by" in errors or (arguments[0] == "forget" and "No turn fits" in errors)
        ):
            self.done["busy"] += "is in use by" in errors
            return ""
        if code != 0 or "Traceback" in errors:
            what = (errors or out.read_text()).strip()[:900]
            self.faults.append(f"{self.name}: memagent {' '.join(arguments)[:80]}: exit code {code}: {what}")
            return ""
        return out.read_text()

    def some_of_own(self) -> list[int]:
        chosen = self.random.sample(self.own, min(len(self.own), self.random.randint(1, 3)))
        self.own = [seq for seq in self.own if seq not in chosen]
        return chosen

    def acknowledge(self, seq: int, text: str) -> None:
        self.ledger.note(did="turn", seq=seq, text=text)
        self.own.append(seq)


def stress(
    home: Home, outside: Path, *, seconds: float, processes: int, models: Models, model: ChatModel | None
) -> dict[str, object]:
    """Run the mix and return what was done and every fault.

    Args:
        processes: of which three chat and the others run short commands; where there is a model, two more chat with it.
        model: a model in this process, or None.
    """
    os.environ |= {
        "MEMAGENT_HOME": str(home.root),
        "MEMAGENT_MODELS": str(home.models),
        "MEMAGENT_EMBEDDER": "hashing",
        "MEMAGENT_MODEL": "echo",
        "MEMAGENT_USER": USER,
    }
    outside.mkdir(parents=True, exist_ok=True)
    children = []
    for number in range(processes):
        own_model = model if number < 2 else None
        child = os.fork()
        if child == 0:
            code = 1
            try:
                Worker(home, outside, number, models, own_model).run(seconds, chats=number < 5)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    verdict = outside / "verdict.json"
    # In a process of its own: this one must not use Chroma, as it may still be forked.
    if forked(lambda: _write_verdict(verdict, home, outside, statuses, models)):
        return {"faults": ["the examination afterwards failed"]}
    judged: dict[str, object] = json.loads(verdict.read_text())
    return judged


def _write_verdict(file: Path, home: Home, outside: Path, statuses: list[int], models: Models) -> None:
    file.write_text(json.dumps(_judge(home, outside, statuses, models)))


def _judge(home: Home, outside: Path, statuses: list[int], models: Models) -> dict[str, object]:
    reports = [json.loads(path.read_text()) for path in outside.glob("worker *.json")]
    faults = [f"a worker ended with {status}" for status in statuses if status]
    faults += [fault for report in reports for fault in report["faults"]]
    expected = Expected.read(sorted(outside.glob("*.ledger")))
    for backend in home.backends_of(USER):
        with models.open(home, backend) as memory:
            left = memory.finish_forgetting()
            faults += [f"{backend}: {one}" for one in left]
            if memory.position.seq != memory.journal.last()[0]:
                faults.append(f"{backend} has read up to {memory.position.seq} only")
    faults += check(home, expected)
    with open_journal(home, USER, read_only=True) as journal:
        kept = {turn.seq: turn.text for turn in journal.turns()}
        unfinished = journal.unfinished()
    faults += [f"unfinished: {one}" for one in unfinished]
    gone = [text for seq, text in expected.texts.items() if seq not in kept]
    faults += leaks(home.root, gone, kept.values())
    done = sum((Counter(report["done"]) for report in reports), Counter())
    return {
        "done": dict(done),
        "acknowledged": len(expected.texts),
        "forgotten": len(gone),
        "kept": len(kept),
        "faults": faults,
    }
