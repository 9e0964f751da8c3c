"""The contract between the agent and a long-term memory.

A backend is a function of the journal: handed the same turns in the same order it holds the same
memory, so its state can always be thrown away and rebuilt. It never sees a turn before the journal
has committed it, and never a turn of another user.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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
class Recollection:
    """One recalled item.

    Attributes:
        text: what goes into the prompt.
        score: higher is more relevant; comparable within one recall of one backend only.
        seqs: the turns it came from, oldest first.
        session, role, speaker, created_at: provenance of the first of those turns.
        why: one sentence for a person: what made the backend recall this.
        regenerated: True if the text was produced from weights instead of looked up in the journal.
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
        items: things it can recall (turns, passages, spans, latents).
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
    from memagent.backends.errors import SettingError

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


class MemoryBackend(Protocol):
    """A long-term memory. Subclass it, and fill in everything without a default.

    A backend is built as ``Backend(config, resources)``, ``config`` being an instance of its
    ``Config`` dataclass: its hyper-parameters, settable with ``--set key=value``. One that abstains has
    a field ``abstain: bool = True``, which benchmarks of ranking switch off.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Which of ``embedder`` and ``local_model`` it uses."""
    fixed_size: ClassVar[bool] = False
    """Its state does not grow with what it reads."""
    regenerates: ClassVar[bool] = False
    """It recalls text produced from weights."""
    costly: ClassVar[bool] = False
    """Reading the journal again takes so long that a state made by another model or setting is refused, not rebuilt."""

    def __init__(self, config: Any, resources: Resources) -> None: ...

    @classmethod
    def fingerprint(cls, config: Any, resources: Resources) -> Fingerprint:
        """What a stored state depends on besides the turns: format version, model digests, settings.

        A checkpoint with another fingerprint is not loaded but rebuilt from the journal.
        """
        ...

    def remember(self, turns: Sequence[Turn]) -> None:
        """Take in turns, in journal order. A seq already held changes nothing."""
        ...

    def recall(self, query: str, *, limit: int = 5) -> list[Recollection]:
        """Return at most ``limit`` recollections, best first; none if nothing seems relevant.

        The length of the list is the backend's own judgement: most messages need no memory.
        """
        ...

    def forget(self, seqs: Collection[int]) -> bool:
        """Remove these turns so that nothing of them is left in memory or in the working files.

        Returns False if the method cannot: the agent then rebuilds it without them. Unknown seqs
        are ignored.
        """
        return False

    def consolidate(self) -> ConsolidationReport:
        """Tidy the memory: merge, compact, drop what is superseded. Never changes the journal."""
        items = self.stats().items
        return ConsolidationReport(items, items, "This backend has nothing to consolidate.")

    def stats(self) -> BackendStats: ...

    def save(self, directory: Path) -> None:
        """Write the whole state into an empty directory: safetensors, JSON, or a database; no pickle."""
        ...

    @classmethod
    def load(cls, directory: Path, config: Any, resources: Resources) -> Self:
        """Read what ``save`` wrote. The directory stays as it is: copy what will change.

        Raises:
            CheckpointError: the state cannot be used; the agent rebuilds it from the journal.
            OSError: the disk is full or fails; the agent keeps the state.
        """
        ...

    def close(self) -> None:
        """Release files and connections. Called once, last."""
        return


@dataclass
class Injection:
    """What a model channel brings into one generation.

    Attributes:
        recollections: what came to mind, for ``/why``.
        seqs: every turn that may show in the reply: those above, and those they were read after.
    """

    recollections: list[Recollection] = field(default_factory=list)
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
