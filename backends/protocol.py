"""The contract between the agent and a long-term memory.

A backend is a function of the journal: the same turns in the same order give the same memory. Its state can
therefore be thrown away and rebuilt at any time. A backend gets a turn only after the journal has committed it, and
never a turn of another user. The records that go back and forth are in ``memagent.backends.records``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memagent.backends.errors import SettingError
from memagent.backends.picture import Cell, Column, Picture, Table
from memagent.backends.records import (
    BackendStats,
    ConsolidationReport,
    Hit,
    TrainingPlan,
    Turn,
    Use,
    WriteResult,
)

Fingerprint = Mapping[str, str | int | float | bool]
Vectors = NDArray[np.float32]
Item = TypeVar("Item")

_AMONG_GROWTH = 4
"""If too few hits are of the wanted turns, a memory is asked again for this many times as many."""


class Embedder(Protocol):
    """Turns texts into unit vectors whose inner product is their similarity.

    Attributes:
        name: name of the model.
        digest: identifies the weights; vectors of different digests must not be compared.
        dimension: length of a vector.
        max_tokens: longest text that one vector can represent, in tokens of the embedder's own tokenizer.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def digest(self) -> str: ...  # noqa: D102

    @property
    def dimension(self) -> int: ...  # noqa: D102

    @property
    def max_tokens(self) -> int: ...  # noqa: D102

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts.

        Args:
            texts: any texts; what exceeds ``max_tokens`` may be ignored.

        Returns:
            float32 ``[len(texts), dimension]``, each row of length 1.
        """
        ...

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed questions that stored texts are searched for with. Many embedders treat them as any text.

        Args:
            texts: as in ``embed``.

        Returns:
            As ``embed`` does.
        """
        ...


class LocalModel(Protocol):
    """A causal language model in this process, as a model channel uses it.

    Attributes:
        name: name of the model.
        digest: identifies the weights.
        model: the transformers ``PreTrainedModel``.
        tokenizer: its transformers tokenizer.
    """

    name: str
    digest: str
    model: Any
    tokenizer: Any


class Progress(Protocol):
    """Wraps a long iteration and reports how far it is, for instance as a progress bar."""

    def __call__(self, items: Iterable[Item], *, total: int | None, label: str) -> Iterable[Item]:
        """Yield the items unchanged.

        Args:
            items: what is iterated.
            total: number of items; None if unknown.
            label: what the iteration does, for a person.
        """
        ...


def silent(items: Iterable[Item], *, total: int | None, label: str) -> Iterable[Item]:
    """Return the items and report nothing; the default ``Progress``."""
    return items


def _no_model() -> LocalModel:
    raise SettingError("This backend needs a local language model; the chosen model is not local.")


@dataclass
class Resources:
    """What a backend shares with the rest of the agent. Models load on first use.

    Attributes:
        workspace: a private, empty folder for working files; it is removed after the backend is closed.
        make_embedder: builds the shared embedder.
        make_model: builds the local language model.
        seed: seed of everything random.
        scope: identifies this user's journal, for stores that several users share.
        progress: wraps long loops.
        cache: a folder that all users share, for what depends on a model alone; None: nothing is cached.
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
        """The shared embedder, loaded on first use."""
        return self.make_embedder()

    @cached_property
    def local_model(self) -> LocalModel:
        """The local language model, loaded on first use; SettingError if the chosen model is not local."""
        return self.make_model()


class MemoryBackend(ABC):
    """A long-term memory. Subclass it and implement the abstract methods.

    A backend is built as ``Backend(config, resources)``. ``config`` is an instance of its ``Config`` dataclass: its
    hyper-parameters, which users set with ``--set key=value``. A backend that abstains has a field
    ``abstain: bool = True``, which benchmarks of ranking switch off.

    The flags say what a backend can do. The suite in ``memagent.testing`` checks each flag against the behaviour.

    Attributes:
        name: name of the backend's entry point.
        Config: dataclass of its hyper-parameters.
        needs: which of ``embedder`` and ``local_model`` it uses.
        exact_forget: it removes single turns; otherwise it is rebuilt without them.
        consolidates: it implements ``consolidate``.
        model_channel: it is a ``ModelMemory`` too.
        fixed_size: its state does not grow with the number of turns.
        regenerates: it recalls text that comes from weights.
        costly: a rebuild takes long, so a state of another model or of other settings is refused, not rebuilt.
        follows_use: it gets the uses that replies made of recollections; see ``note_use``.
        trainable: it has weights that are trained apart from any journal; see ``train``.
        seconds_per_turn: about how long it takes to remember a turn of 40 tokens on two CPU cores, for a person who thinks of
            using it; None: that was not measured.
        first_use: one sentence on what its first use with a model takes besides; empty: nothing.
    """

    name: ClassVar[str]
    Config: ClassVar[type[Any]]
    needs: ClassVar[frozenset[str]] = frozenset()
    exact_forget: ClassVar[bool] = False
    consolidates: ClassVar[bool] = False
    model_channel: ClassVar[bool] = False
    fixed_size: ClassVar[bool] = False
    regenerates: ClassVar[bool] = False
    costly: ClassVar[bool] = False
    follows_use: ClassVar[bool] = False
    trainable: ClassVar[bool] = False
    seconds_per_turn: ClassVar[float | None] = None
    first_use: ClassVar[str] = ""

    def __init__(self, config: Any, resources: Resources) -> None:
        """Begin with an empty memory.

        Args:
            config: an instance of ``Config``.
            resources: what the backend shares with the agent.
        """
        self.config = config
        self.resources = resources

    @classmethod
    @abstractmethod
    def fingerprint(cls, config: Any, resources: Resources) -> Fingerprint:
        """Return what a stored state depends on besides the turns: format version, model digests, settings.

        A stored state with another fingerprint is not loaded. The agent rebuilds it from the journal.
        May load the embedder or the local model, which may be fetched for it; writes nothing else.

        Args:
            config: an instance of ``Config``.
            resources: what the backend shares with the agent.
        """

    @abstractmethod
    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Take turns into memory and into ``resources.workspace``. Only ``save`` writes the stored state.

        What a server or ``resources.cache`` keeps for the backend may be written too.

        Args:
            turns: in journal order. A turn that the backend has already changes nothing.

        Returns:
            One result for each turn, in the same order.
        """

    @abstractmethod
    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Return the hits for a query, best first. Recall changes nothing.

        Args:
            query: a message or a question; not blank.
            limit: most hits returned.

        Returns:
            At most ``limit`` hits. The backend decides how many are relevant; most messages need no memory, so the
            list is often empty.
        """

    def recall_among(self, query: str, seqs: Collection[int], *, limit: int = 5) -> list[Hit]:
        """Return the hits for a query that come from some of the turns only, best first.

        The default recalls more and more of all turns until enough hits are of these. A memory that recalls a part of its
        turns at most, or that can search a few of them in less time, overrides it.

        Args:
            query: as in ``recall``.
            seqs: the turns; unknown seqs are ignored.
            limit: most hits returned.

        Returns:
            At most ``limit`` hits. Their ``seqs`` are among those given.
        """
        among = frozenset(seqs)
        wanted = _AMONG_GROWTH * limit
        while True:
            hits = self.recall(query, limit=wanted)
            chosen = [
                replace(hit, seqs=tuple(seq for seq in hit.seqs if seq in among))
                for hit in hits
                if not among.isdisjoint(hit.seqs)
            ]
            if len(chosen) >= limit or len(hits) < wanted:
                return chosen[:limit]
            wanted *= _AMONG_GROWTH

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Remove turns, so that neither memory nor the working files contain anything of them.

        Args:
            seqs: the turns to remove; unknown seqs are ignored.
            turns: content of those turns as far as it is available, for a method that needs it to undo its writes.
                It is not available after a crash, or if another process forgot the turns. The turns of
                ``needed_to_forget`` are among them in any case.

        Returns:
            False if the method cannot remove the turns, or cannot without the missing content. The agent then rebuilds
            the backend without these turns.
        """
        return False

    def needed_to_forget(self, seqs: Collection[int]) -> Collection[int]:
        """Return the seqs of the turns that stay, but whose content ``forget`` needs to remove others.

        A memory that merges turns recomputes what it merged. The default is none.

        Args:
            seqs: the turns to remove; unknown seqs are ignored.
        """
        return ()

    def note_use(self, uses: Sequence[Use]) -> None:
        """Take in which recollections replies had in view. It is called only if ``follows_use`` is set.

        Args:
            uses: in journal order. The calls come between those of ``remember``, at the replies' places in the journal.
        """
        return

    def consolidate(self) -> ConsolidationReport:
        """Merge, compact, or drop superseded items. The journal does not change.

        Returns:
            The number of items before and after, with one sentence about it.
        """
        items = self.stats().items
        return ConsolidationReport(items, items, "This backend has nothing to consolidate.")

    @abstractmethod
    def stats(self) -> BackendStats:
        """Return what the memory stores and what it costs, as of the last turn it has read.

        Reads no new turns and changes no stored state. A backend may load its model.
        """

    def picture(self) -> Sequence[Picture]:
        """Return pictures of the memory as plain data. The default is a table of its figures."""
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
        """Return pictures of how a query is answered. The default is a table of the hits.

        Args:
            query: as in ``recall``.
            limit: as in ``recall``.
        """
        rows = tuple(
            (rank, hit.score, ", ".join(map(str, hit.seqs)), hit.why)
            for rank, hit in enumerate(self.recall(query, limit=limit), start=1)
        )
        columns = (Column("rank"), Column("score"), Column("turns"), Column("why"))
        return [Table(query, columns, rows)]

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the whole state.

        Args:
            directory: an empty directory. Use safetensors, JSON or a database; no pickle.
        """

    @classmethod
    @abstractmethod
    def load(cls, directory: Path, config: Any, resources: Resources) -> Self:
        """Read a state that ``save`` wrote.

        Args:
            directory: must stay unchanged: copy files that will change to ``resources.workspace``.
            config: an instance of ``Config``.
            resources: what the backend shares with the agent.

        Raises:
            CheckpointError: the state cannot be used; the agent rebuilds it from the journal.
            OSError: the disk is full or fails; the agent keeps the state.
        """

    @classmethod
    def training_plan(cls, config: Any, resources: Resources) -> TrainingPlan:
        """Return what ``train`` would cost.

        Args:
            config: an instance of ``Config``.
            resources: what the backend shares with the agent.

        Raises:
            SettingError: this backend has no weights to train.
        """
        raise SettingError(f"The backend {cls.name} has no weights to train: it can be used as it is.")

    @classmethod
    def train(cls, config: Any, resources: Resources) -> None:
        """Train the backend's weights and write them to ``resources.cache``.

        After an interruption, the next call continues where training stopped, unless the plan says otherwise.

        Args:
            config: an instance of ``Config``.
            resources: what the backend shares with the agent.

        Raises:
            SettingError: this backend has no weights to train.
        """
        cls.training_plan(config, resources)

    def close(self) -> None:
        """Release files and connections. The agent calls it once, as the last method."""
        return


@dataclass
class Injection:
    """What a model channel brings into one generation.

    Attributes:
        hits: the recalled items, for ``/why``.
        seqs: every turn that can influence the reply: the turns of the hits, and the turns that were in their context
            when they were encoded.
    """

    hits: list[Hit] = field(default_factory=list)
    seqs: frozenset[int] = frozenset()


@runtime_checkable
class ModelMemory(Protocol):
    """The model channel, which a backend may implement too: memory that acts inside a local model."""

    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> AbstractContextManager[Injection]:
        """Return a context manager; within it, forward passes of the model use the memories for a query.

        Only forward passes in this ``contextvars`` context do. Those of other contexts, for instance of other users'
        replies, do not. System prompt and history are read outside it where the model keeps their keys and values, so the
        memory acts on the last message and on the reply. After exit, also by an exception, the model is bit-identical to
        its earlier state.

        Args:
            model: the local model that generates the reply.
            query: as in ``MemoryBackend.recall``.
            exclude: seqs of turns that are in the prompt already.
        """
        ...
