"""The contract between the agent and a long-term memory.

A backend is a function of the journal: handed the same turns in the same order it holds the same
memory, so its state can always be thrown away and rebuilt. It never sees a turn before the journal
has committed it, and never a turn of another user.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memagent.backends.errors import SettingError
from memagent.backends.picture import Cell, Column, Picture, Table

Fingerprint = Mapping[str, str | int | float | bool]
Vectors = NDArray[np.float32]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that belongs to a turn; its bytes stay in the journal until they are asked for.

    Attributes:
        media_type: as in ``image/png``.
        size: in bytes.
        sha256: digest of the bytes, 64 hexadecimal digits.
    """

    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation, as the journal holds it.

    Attributes:
        seq: position in the user's journal, from 1, never reused.
        id: 32 hexadecimal digits, the same on every machine the turn is exported to.
        session: the conversation it belongs to.
        role: ``user``, ``assistant``, ``system`` or ``tool``.
        text: what was said; never empty.
        created_at: when, with time zone.
        speaker: the name of who spoke, where there is more than a role (group chats, transcripts).
        in_view: seqs of the turns that stood in the model's prompt, or were attended, when this reply was written.
        recalled: those of ``in_view`` that memory brought, rather than the conversation's last turns.
        derived: written with recollections in view. Never handed to a backend: what was recalled
            is not remembered a second time.
        attachments: the turn's files, in order.
    """

    seq: int
    id: str
    session: str
    role: str
    text: str
    created_at: datetime
    speaker: str | None = None
    in_view: tuple[int, ...] = ()
    derived: bool = False
    recalled: tuple[int, ...] = ()
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """One item that a backend recalls. ``Memory`` looks up its provenance in the journal: see ``Recollection``.

    Attributes:
        seqs: the turns it came from, oldest first; at least one.
        score: higher is more relevant; comparable within one recall of one backend only.
        why: one sentence for a person: what made the backend recall this.
        text: what goes into the prompt; empty: the text of the first turn.
        regenerated: True if the text was produced from weights instead of looked up in the journal.
        superseded_by: the later turn that replaces what this one says, if the backend knows of one.
    """

    seqs: tuple[int, ...]
    score: float
    why: str
    text: str = ""
    regenerated: bool = False
    superseded_by: int | None = None


@dataclass(frozen=True, slots=True)
class Recollection:
    """A hit with its provenance from the journal.

    Attributes:
        text: what goes into the prompt.
        score, seqs, why, regenerated: as in ``Hit``.
        session, role, speaker, created_at: of the first of the turns.
        superseded_by: the later turn that replaces what this one says, if the backend knows of one.
        superseded_at: when that turn was said.
    """

    text: str
    score: float
    seqs: tuple[int, ...]
    session: str
    role: str
    created_at: datetime
    why: str
    speaker: str | None = None
    regenerated: bool = False
    superseded_by: int | None = None
    superseded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of one turn that a backend was handed.

    Attributes:
        seq: the turn.
        stored: False if nothing new is kept of it, because it was held already or says nothing new.
        surprise: how unexpected it was to a memory that predicts what it reads; higher is more, in the backend's own unit.
        strength: how strongly it was written, 0 to 1.
        merged_into: the earlier turn whose item now stands for this one too.
        supersedes: earlier turns that this one replaces.
    """

    seq: int
    stored: bool = True
    surprise: float | None = None
    strength: float | None = None
    merged_into: int | None = None
    supersedes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """One reply that had recollections in view.

    Attributes:
        seq: the reply. Forgetting it takes the use back.
        recalled: the turns that the recollections came from.
        created_at: when the reply was written, with time zone.
    """

    seq: int
    recalled: tuple[int, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What training a backend's weights takes, said before it starts.

    Attributes:
        summary: what is trained on what, in one sentence.
        minutes: an estimate for this machine.
        bytes: what it writes.
        done: the weights are there already.
    """

    summary: str
    minutes: float
    bytes: int
    done: bool = False


@dataclass(frozen=True, slots=True)
class ConsolidationReport:
    """What a consolidation did: items before and after, and one sentence about it."""

    before: int
    after: int
    summary: str


@dataclass(frozen=True, slots=True)
class BackendStats:
    """What a backend holds and what it costs.

    Attributes:
        items: things it can recall (turns, chunks, latents).
        tokens: tokens of text it has read, as counted by its own tokenizer; 0 if it does not count.
        bytes_on_disk: size of its working files.
        bytes_in_memory: an estimate of what it holds in RAM, without shared models.
        extras: further figures, by name.
    """

    items: int
    tokens: int
    bytes_on_disk: int
    bytes_in_memory: int
    extras: Mapping[str, str | int | float] = field(default_factory=dict)


class Embedder(Protocol):
    """Turns texts into unit vectors whose inner product is their similarity."""

    name: str
    digest: str
    """Identifies the weights: vectors of different digests must never be compared."""
    dimension: int
    max_tokens: int
    """Longest text one vector can stand for, in tokens of its own tokenizer."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 ``[len(texts), dimension]``, each row of length 1."""
        ...


class LocalModel(Protocol):
    """A causal language model in this process, as a model channel sees it."""

    name: str
    digest: str
    model: Any
    """The transformers ``PreTrainedModel``."""
    tokenizer: Any


class Progress(Protocol):
    """Wraps a long iteration so that whoever watches sees it advance."""

    def __call__(self, items: Iterable[Item], *, total: int | None, label: str) -> Iterable[Item]: ...


def silent(items: Iterable[Item], *, total: int | None, label: str) -> Iterable[Item]:
    """The progress of a program nobody watches."""
    return items


def _no_model() -> LocalModel:
    raise SettingError("This backend needs a local language model; the chosen model is not one.")


@dataclass
class Resources:
    """What a backend shares with the rest of the agent. Models load on first use.

    Attributes:
        workspace: a private, empty folder for working files; gone after the backend is closed.
        make_embedder, make_model: build the shared embedder and the local language model.
        seed: for everything random.
        scope: names this user's journal among all, for stores that several users share.
        progress: wraps long loops.
        cache: a folder that all users share, for what depends on a model alone; None: nothing is kept.
    """

    workspace: Path
    make_embedder: Callable[[], Embedder]
    make_model: Callable[[], LocalModel] = _no_model
    seed: int = 0
    scope: str = "local"
    progress: Progress = silent
    cache: Path | None = None

    @cached_property
    def embedder(self) -> Embedder:
        return self.make_embedder()

    @cached_property
    def local_model(self) -> LocalModel:
        return self.make_model()


class MemoryBackend(ABC):
    """A long-term memory. Subclass it, and fill in what is abstract.

    A backend is built as ``Backend(config, resources)``, ``config`` being an instance of its
    ``Config`` dataclass: its hyper-parameters, settable with ``--set key=value``. One that abstains has
    a field ``abstain: bool = True``, which benchmarks of ranking switch off.

    The flags say what a backend can do; ``memagent.testing`` holds them against what it does.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Which of ``embedder`` and ``local_model`` it uses."""
    exact_forget: ClassVar[bool] = False
    """It removes single turns; else it is rebuilt without them."""
    consolidates: ClassVar[bool] = False
    """It has something to tidy up."""
    model_channel: ClassVar[bool] = False
    """It is a ``ModelMemory`` too."""
    fixed_size: ClassVar[bool] = False
    """Its state does not grow with what it reads."""
    regenerates: ClassVar[bool] = False
    """It recalls text produced from weights."""
    costly: ClassVar[bool] = False
    """Reading the journal again takes so long that a state made by another model or setting is refused, not rebuilt."""
    follows_use: ClassVar[bool] = False
    """It wants to know which recollections replies had in view: see ``note_use``."""
    trainable: ClassVar[bool] = False
    """It has weights that are trained apart from any journal: see ``train``."""

    def __init__(self, config: Any, resources: Resources) -> None:
        """Begin with an empty memory."""
        self.config = config
        self.resources = resources

    @classmethod
    @abstractmethod
    def fingerprint(cls, config: Any, resources: Resources) -> Fingerprint:
        """Return what a stored state depends on besides the turns: format version, model digests, settings.

        A checkpoint with another fingerprint is not loaded but rebuilt from the journal.
        """

    @abstractmethod
    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Take in turns, in journal order, and say what became of each. A turn already held changes nothing."""

    @abstractmethod
    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Return at most ``limit`` hits, best first; none if nothing seems relevant. Changes nothing.

        The length of the list is the backend's own judgement: most messages need no memory.
        """

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Remove these turns so that nothing of them is left in memory or in the working files.

        Args:
            seqs: the turns to remove; unknown ones are ignored.
            turns: those of them whose content is still at hand, for a method that needs it to undo what it learnt. After a
                crash, or when another process forgot, it is not.

        Returns:
            False if the method cannot do it, or not without the content that is missing: then the agent rebuilds the
            backend without these turns.
        """
        return False

    def note_use(self, uses: Sequence[Use]) -> None:
        """Take in which recollections replies had in view, in journal order between the turns; see ``follows_use``."""
        return

    def consolidate(self) -> ConsolidationReport:
        """Tidy the memory: merge, compact, drop what is superseded. Never changes the journal."""
        items = self.stats().items
        return ConsolidationReport(items, items, "This backend has nothing to consolidate.")

    @abstractmethod
    def stats(self) -> BackendStats:
        """Return what the memory holds and what it costs."""

    def picture(self) -> Sequence[Picture]:
        """Draw the memory as plain data. By default a table of its figures."""
        stats = self.stats()
        figures: list[tuple[Cell, ...]] = [
            ("items", stats.items),
            ("tokens read", stats.tokens),
            ("bytes on disk", stats.bytes_on_disk),
            ("bytes in memory", stats.bytes_in_memory),
            *stats.extras.items(),
        ]
        return [Table(self.name, (Column("figure"), Column("value")), tuple(figures))]

    def picture_of_recall(self, query: str, *, limit: int = 5) -> Sequence[Picture]:
        """Draw how a query finds what it finds. By default a table of the hits."""
        rows = tuple(
            (place, hit.score, ", ".join(map(str, hit.seqs)), hit.why)
            for place, hit in enumerate(self.recall(query, limit=limit), start=1)
        )
        columns = (Column("rank"), Column("score"), Column("turns"), Column("why"))
        return [Table(query, columns, rows)]

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the whole state into an empty directory: safetensors, JSON, or a database; no pickle."""

    @classmethod
    @abstractmethod
    def load(cls, directory: Path, config: Any, resources: Resources) -> Self:
        """Read what ``save`` wrote. The directory stays as it is: copy what will change.

        Raises:
            CheckpointError: the state cannot be used; the agent rebuilds it from the journal.
            OSError: the disk is full or fails; the agent keeps the state.
        """

    @classmethod
    def training_plan(cls, config: Any, resources: Resources) -> TrainingPlan:
        """Say what ``train`` would take.

        Raises:
            SettingError: this backend has no weights to train.
        """
        raise SettingError(f"The backend {cls.name} has no weights to train: it can be used as it is.")

    @classmethod
    def train(cls, config: Any, resources: Resources) -> None:
        """Train the backend's weights into ``resources.cache``. Interrupted, it goes on where it was when called again.

        Raises:
            SettingError: this backend has no weights to train.
        """
        cls.training_plan(config, resources)

    def close(self) -> None:
        """Release files and connections. Called once, last."""
        return


@dataclass
class Injection:
    """What a model channel brings into one generation.

    Attributes:
        hits: what was recalled, for ``/why``.
        seqs: every turn that may show in the reply: those above, and those they were read after.
    """

    hits: list[Hit] = field(default_factory=list)
    seqs: frozenset[int] = frozenset()


@runtime_checkable
class ModelMemory(Protocol):
    """Second, optional capability of a backend: memory that acts inside a local model."""

    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> AbstractContextManager[Injection]:
        """While it is open, the model's forward passes in this ``contextvars`` context use what ``query`` brings to mind.

        Those of other contexts, which may be other users' replies, do not. After exit, also by an exception, the model
        is bit-identical to what it was.

        Args:
            exclude: seqs of turns that stand in the prompt anyway.
        """
        ...
