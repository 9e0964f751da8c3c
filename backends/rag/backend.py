"""The RAG baseline: BM25 and embeddings over past turns, fused by reciprocal rank, with abstention."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar, ParamSpec, Self, TypeVar

from pydantic import Field

from memagent.backends.errors import CheckpointError, MemagentError, StorageError
from memagent.backends.protocol import Fingerprint, MemoryBackend, Resources, Vectors
from memagent.backends.rag.relevance import Evidence, Relevance, is_question
from memagent.backends.rag.vectors import VectorIndex, fresh_folder
from memagent.backends.records import BackendStats, ConsolidationReport, Hit, Turn, WriteResult
from memagent.backends.shared.chunking import Passage, passage_key, split
from memagent.backends.shared.full_text import LexicalIndex
from memagent.backends.shared.fusion import reciprocal_rank_fusion
from memagent.backends.shared.text import normalize

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_FORMAT = 2
_JUDGED = 20
_VIEWS_A_PASSAGE = 3
# pyo3_runtime: Chroma's Rust code panics at damaged files, which Python sees as a BaseException.
_STORES = ("chromadb", "httpx", "pyo3_runtime")


def _translated(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Turn the stores' own errors into StorageError: what they lack is read from the journal again."""

    @wraps(method)
    def call(*args: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return method(*args, **named)
        except MemagentError:
            raise
        except BaseException as error:
            if not isinstance(error, sqlite3.Error) and not _is_of_stores(error):
                raise
            raise StorageError(
                f"The rag memory's stores failed: {error}. The journal is kept apart from them, and the memory reads "
                "there what it lacks when it is next used. If the disk is full or cannot be written, mend that first; if it is not, "
                "`memagent backends rebuild rag` makes the memory anew."
            ) from error

    return call


def _is_of_stores(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in _STORES


@dataclass(frozen=True)
class RagConfig:
    """Settings of the RAG baseline.

    Attributes:
        abstain: return only what seems relevant; switch off for retrieval benchmarks.
        personal: least strength of a hit for questions about the user (see relevance.py).
        other: least likeness of a hit for any other message.
        depth: hits taken from each of the two searches before fusion.
        k: constant of reciprocal-rank fusion; small values trust the top ranks more.
        url: address of a Chroma server, for several machines; embedded Chroma if empty.
    """

    abstain: bool = True
    personal: Annotated[float, Field(allow_inf_nan=False)] = 0.36
    other: Annotated[float, Field(allow_inf_nan=False)] = 0.60
    depth: Annotated[int, Field(ge=1, le=1000)] = 100
    k: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    url: str = ""


class Rag(MemoryBackend):
    """Finds past turns by their words (BM25) and by their meaning (embeddings), and fuses both rankings.

    Remembering costs one embedding and two indexed inserts a passage. Recalling costs one embedding
    and two searches: the vector search grows with the logarithm of the turns, the word search with
    the number of turns that share a word with the question. Forgetting rewrites both files.
    """

    name: ClassVar[str] = "rag"
    Config: ClassVar[type[RagConfig]] = RagConfig
    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    exact_forget: ClassVar[bool] = True
    consolidates: ClassVar[bool] = True

    def __init__(self, config: RagConfig, resources: Resources, chroma: Path | None = None) -> None:
        self.config = config
        self._resources = resources
        self._lexical = LexicalIndex(resources.workspace / "lexical.sqlite3")
        place = config.url or chroma or fresh_folder(resources.workspace)
        try:
            self._vectors = VectorIndex(place, f"memagent-{resources.scope}" if config.url else "passages")
        except BaseException:
            self._lexical.close()
            raise

    @classmethod
    def fingerprint(cls, config: RagConfig, resources: Resources) -> Fingerprint:
        embedder = resources.embedder
        return {
            "format": _FORMAT,
            "embedder": embedder.name,
            "embedder_digest": embedder.digest,
            "url": config.url,
        }

    @_translated
    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        known = self._lexical.known([turn.seq for turn in turns])
        passages = [passage for turn in turns if turn.seq not in known for passage in split(turn)]
        if passages:
            self._embed(passages)
            self._lexical.add(passages)
        return [WriteResult(turn.seq, stored=turn.seq not in known) for turn in turns]

    @_translated
    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        vector = self._resources.embedder.embed([query])[0]
        by_meaning = self._nearest(vector)
        by_words = self._lexical.search(query, self.config.depth)
        fused = reciprocal_rank_fusion([list(by_words), list(by_meaning)], self.config.k)
        best = self._best_of_each_turn(fused, query, most=max(limit, _JUDGED))
        evidence = self._evidence(query, vector, best, by_meaning)
        if self.config.abstain:
            relevance = Relevance(query, personal=self.config.personal, other=self.config.other)
            best = {key: best[key] for key in relevance.select(evidence)}
        return [
            _hit(passage, fused[key], evidence[key], _rank(key, by_words), _rank(key, by_meaning))
            for key, passage in list(best.items())[:limit]
        ]

    @_translated
    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        known = self._lexical.known(seqs)
        gone = self._views(self._lexical.fetch(self._lexical.keys(known)).values())
        if gone:
            # In this order: until the words are gone, a forgetting that failed half-way can be repeated.
            self._vectors.delete(gone)
            self._vectors.rewrite()
            self._lexical.forget(known)
        return True

    @_translated
    def consolidate(self) -> ConsolidationReport:
        """Rewrite both stores compactly; what can be recalled stays the same."""
        turns, _ = self._lexical.count()
        self._lexical.compact()
        self._vectors.rewrite()
        return ConsolidationReport(turns, turns, "Rewrote the word index and the vector store compactly.")

    @_translated
    def stats(self) -> BackendStats:
        turns, passages = self._lexical.count()
        files = [path for path in self._resources.workspace.rglob("*") if path.is_file()]
        vectors = self._vectors.count()
        size = vectors * self._resources.embedder.dimension * 4
        return BackendStats(
            items=turns,
            tokens=0,
            bytes_on_disk=sum(path.stat().st_size for path in files),
            bytes_in_memory=size if self._vectors.embedded else 0,
            extras={
                "passages": passages,
                "vectors": vectors,
                "embedder": self._resources.embedder.name,
            },
        )

    @_translated
    def save(self, directory: Path) -> None:
        self._lexical.copy_to(directory / "lexical.sqlite3")
        self._vectors.copy_to(directory / "chroma")
        self._prune_server()
        (directory / "state.json").write_text(json.dumps(self._counts()))

    @classmethod
    def load(cls, directory: Path, config: RagConfig, resources: Resources) -> Self:
        from shutil import copyfile, copytree

        chroma = fresh_folder(resources.workspace)
        try:
            expected = json.loads((directory / "state.json").read_text())
            copyfile(directory / "lexical.sqlite3", resources.workspace / "lexical.sqlite3")
            if not config.url:
                copytree(directory / "chroma", chroma)
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"its files cannot be read ({error})") from error
        backend = cls(config, resources, chroma)
        try:
            found = backend._counts()
            if found != expected:
                raise CheckpointError(f"it holds {found}, expected {expected}")
            backend._mend_server()
        except BaseException as error:
            backend.close()
            if isinstance(error, sqlite3.DatabaseError) or _is_of_stores(error):
                raise CheckpointError(f"its content cannot be used ({error})") from error
            raise
        return backend

    def close(self) -> None:
        self._vectors.close()
        self._lexical.close()

    def _counts(self) -> dict[str, int]:
        """What a stored state holds, to be compared when it is loaded. A server's vectors are mended, not compared."""
        counts = {"passages": self._lexical.count()[1], "words": self._lexical.search_count()}
        return counts | ({"vectors": self._vectors.count()} if self._vectors.embedded else {})

    def _embed(self, passages: Sequence[Passage]) -> None:
        views = {key: text for passage in passages for key, text in passage.views().items()}
        self._vectors.add(list(views), self._resources.embedder.embed(list(views.values())))

    def _nearest(self, vector: Vectors) -> dict[str, float]:
        """Return passages by the cosine of their best view, best first."""
        best: dict[str, float] = {}
        for view, cosine in self._vectors.nearest(vector, _VIEWS_A_PASSAGE * self.config.depth).items():
            best.setdefault(passage_key(view), cosine)
        return dict(islice(best.items(), self.config.depth))

    def _views(self, passages: Iterable[Passage]) -> list[str]:
        return [view for passage in passages for view in passage.views()]

    def _mend_server(self) -> None:
        """Give a Chroma server again what it has lost since this state was stored."""
        if not self._vectors.embedded:
            missing = self._vectors.missing(self._lexical.keys())
            if missing:
                self._embed(list(self._lexical.fetch(missing).values()))

    def _prune_server(self) -> None:
        """Remove from a Chroma server what was forgotten while its state here was lost."""
        if not self._vectors.embedded:
            held = {view for view in self._views(self._lexical.fetch(self._lexical.keys()).values())}
            last = max((int(key.partition(":")[0]) for key in held), default=0)
            # what is newer was added by another machine
            stray = [
                key
                for key in self._vectors.all_keys()
                if key not in held and int(key.partition(":")[0]) <= last
            ]
            self._vectors.delete(stray)

    def _best_of_each_turn(self, fused: dict[str, float], query: str, *, most: int) -> dict[str, Passage]:
        """Keep the best passage of each turn, in order, leaving out turns that only ask the same question."""
        asked = normalize(query) if is_question(query) else None
        best: dict[str, Passage] = {}
        seen: set[int] = set()
        for key in fused:
            seq = int(key.partition(":")[0])
            if seq in seen:
                continue
            found = self._lexical.fetch([key])
            if key in found and normalize(found[key].text) != asked:
                best[key] = found[key]
                seen.add(seq)
            if len(best) == most:
                break
        return best

    def _evidence(
        self, query: str, vector: Vectors, best: dict[str, Passage], by_meaning: dict[str, float]
    ) -> dict[str, Evidence]:
        far = self._far_cosines(vector, [passage for key, passage in best.items() if key not in by_meaning])
        coverage = self._lexical.coverage(query, list(best))
        return {
            key: Evidence(
                cosine=by_meaning[key] if key in by_meaning else far.get(key, 0.0),
                coverage=coverage[key],
                text=f"{passage.turn.speaker or ''} {passage.text}",
                by_assistant=passage.turn.role == "assistant" and passage.turn.speaker is None,
            )
            for key, passage in best.items()
        }

    def _far_cosines(self, vector: Vectors, passages: Sequence[Passage]) -> dict[str, float]:
        """Return the cosines of passages that the vector search did not reach."""
        cosines: dict[str, float] = {}
        for view, other in self._vectors.get(self._views(passages)).items():
            key = passage_key(view)
            cosines[key] = max(cosines.get(key, -1.0), float(other @ vector))
        return cosines


def _rank(key: str, ranking: dict[str, float]) -> int | None:
    return next((rank for rank, other in enumerate(ranking, start=1) if other == key), None)


def _hit(passage: Passage, score: float, evidence: Evidence, words: int | None, meaning: int | None) -> Hit:
    ranks = [f"{what} rank {rank}" for what, rank in (("words", words), ("meaning", meaning)) if rank]
    return Hit(
        (passage.turn.seq,),
        score,
        text=passage.text,
        why=f"Found by {' and '.join(ranks)}; cosine {evidence.cosine:.2f}, {evidence.coverage:.0%} of the question's words.",
    )
