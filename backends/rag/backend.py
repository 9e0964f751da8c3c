"""Retrieval-augmented generation over past turns: BM25 and embeddings, fused by reciprocal rank, with abstention."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field

from memagent.backends.errors import CheckpointError
from memagent.backends.protocol import Fingerprint, MemoryBackend, Resources, Vectors
from memagent.backends.rag.context_index import ContextIndex
from memagent.backends.rag.relevance import Evidence, RelevanceFilter, is_question
from memagent.backends.rag.vectors import VectorIndex, new_store_folder
from memagent.backends.rag.views import chunk_key, views
from memagent.backends.records import BackendStats, ConsolidationReport, Hit, Turn, WriteResult
from memagent.backends.shared.chunking import Chunk, split_turn, turn_seq
from memagent.backends.shared.full_text import content_words, query_words
from memagent.backends.shared.fusion import reciprocal_rank_fusion
from memagent.backends.shared.store_errors import check_counts, closed_after_errors, translate_errors
from memagent.backends.shared.text import normalize

_FORMAT = 3
_FULL_TEXT_FILE = "full_text.sqlite3"
_MIN_JUDGED = 20
"""Turns that are judged for relevance at least: what is displaced by a better one does not count towards the limit."""
_VIEWS_PER_CHUNK = 3
"""Vectors asked for per chunk that is wanted: several views of one chunk may be near a query."""
# pyo3_runtime: Chroma's Rust code panics at damaged files, which Python sees as a BaseException.
_STORES = frozenset({"sqlite3", "chromadb", "httpx", "pyo3_runtime"})
_translated = translate_errors("rag", _STORES)


@dataclass(frozen=True)
class RagConfig:
    """Settings of the memory ``rag``.

    Attributes:
        abstain: return only what seems relevant; switch off for retrieval benchmarks.
        personal_threshold: lowest relevance score of a hit for questions about the user (see relevance.py).
        general_threshold: lowest relevance score of a hit for any other message.
        candidates: hits taken from each of the two searches before fusion, 1 to 1,000.
        rrf_k: the constant k of reciprocal-rank fusion, at least 0; small values trust the top ranks more.
        url: address of a Chroma server, for several machines; embedded Chroma if empty.
    """

    abstain: bool = True
    personal_threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.36
    general_threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.60
    candidates: Annotated[int, Field(ge=1, le=1000)] = 100
    rrf_k: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    url: str = ""


class Rag(MemoryBackend):
    """Ranks past turns by full-text search (BM25) and by embeddings, and fuses both rankings.

    Remembering costs one embedding a view and two indexed inserts a chunk. Recalling costs one embedding
    and two searches: the vector search grows with the logarithm of the turns, the full-text search with
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
        self._full_text = ContextIndex(resources.workspace / _FULL_TEXT_FILE)
        location = config.url or chroma or new_store_folder(resources.workspace)
        try:
            self._vectors = VectorIndex(location, f"memagent-{resources.scope}" if config.url else "chunks")
        except BaseException:
            self._full_text.close()
            raise

    @classmethod
    def fingerprint(cls, config: RagConfig, resources: Resources) -> Fingerprint:
        """Return the format, the embedder with its weights' digest, and the address of the Chroma server."""
        embedder = resources.embedder
        return {
            "format": _FORMAT,
            "embedder": embedder.name,
            "embedder_digest": embedder.digest,
            "url": config.url,
        }

    @_translated
    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Split turns into chunks, embed each chunk's views and add them to both indexes.

        The cost is one embedding a view; the embedder reads all views of a call in batches.
        """
        known = self._full_text.known([turn.seq for turn in turns])
        chunks = [chunk for turn in turns if turn.seq not in known for chunk in split_turn(turn)]
        if chunks:
            self._embed(chunks)
            self._full_text.add(chunks)
        return [WriteResult(turn.seq, stored=turn.seq not in known) for turn in turns]

    @_translated
    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Fuse full-text and vector search, and return the best chunk of each turn that is relevant.

        Returns:
            Each hit's score is its reciprocal rank fusion, the sum of ``1 / (rrf_k + rank)`` over both rankings: above 0 and at
            most ``2 / (rrf_k + 1)``.
        """
        vector = self._resources.embedder.embed_queries([query])[0]
        cosines = self._nearest(vector)
        bm25 = self._full_text.search(content_words(query) or query_words(query), self.config.candidates)
        fused = reciprocal_rank_fusion([list(bm25), list(cosines)], self.config.rrf_k)
        chunks = self._best_chunk_per_turn(fused, query, limit=max(limit, _MIN_JUDGED))
        evidence = self._evidence(query, vector, chunks, cosines)
        if self.config.abstain:
            relevance = RelevanceFilter(
                query,
                personal_threshold=self.config.personal_threshold,
                general_threshold=self.config.general_threshold,
            )
            chunks = {key: chunks[key] for key in relevance.select(evidence)}
        return [
            _hit(chunk, fused[key], evidence[key], _rank(key, bm25), _rank(key, cosines))
            for key, chunk in list(chunks.items())[:limit]
        ]

    @_translated
    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Remove turns from both indexes and rewrite their files, in time proportional to the size of the indexes."""
        known = self._full_text.known(seqs)
        view_keys = _view_keys(self._full_text.fetch(self._full_text.keys(known)).values())
        if view_keys:
            # In this order: until the words are gone, a forgetting that failed half-way can be repeated.
            self._vectors.delete(view_keys)
            self._vectors.rewrite()
            self._full_text.forget(known)
        return True

    @_translated
    def consolidate(self) -> ConsolidationReport:
        """Rewrite both stores compactly; what can be recalled stays the same."""
        turns = self._full_text.count().turns
        self._full_text.compact()
        self._vectors.rewrite()
        return ConsolidationReport(
            turns, turns, "Rewrote the full-text index and the vector store compactly."
        )

    @_translated
    def stats(self) -> BackendStats:
        """Return counts and sizes; the memory is that of the vectors, float32, unless a Chroma server holds them."""
        counts = self._full_text.count()
        files = [path for path in self._resources.workspace.rglob("*") if path.is_file()]
        vectors = self._vectors.count()
        vector_bytes = vectors * self._resources.embedder.dimension * 4
        return BackendStats(
            items=counts.turns,
            tokens=0,
            bytes_on_disk=sum(path.stat().st_size for path in files),
            bytes_in_memory=vector_bytes if self._vectors.embedded else 0,
            extras={
                "chunks": counts.chunks,
                "vectors": vectors,
                "embedder": self._resources.embedder.name,
            },
        )

    @_translated
    def save(self, directory: Path) -> None:
        """Write a copy of both indexes, and the counts that ``load`` compares; vectors on a server stay there."""
        self._full_text.copy_to(directory / _FULL_TEXT_FILE)
        self._vectors.copy_to(directory / "chroma")
        self._prune_server()
        (directory / "state.json").write_text(json.dumps(self._counts()))

    @classmethod
    def load(cls, directory: Path, config: RagConfig, resources: Resources) -> Self:
        """Copy stored indexes to the workspace and compare what they hold with the counts stored beside them.

        Vectors that a server has lost are embedded again.

        Raises:
            CheckpointError: a file is missing or damaged, or the counts differ.
        """
        from shutil import copyfile, copytree

        chroma = new_store_folder(resources.workspace)
        try:
            expected = json.loads((directory / "state.json").read_text())
            copyfile(directory / _FULL_TEXT_FILE, resources.workspace / _FULL_TEXT_FILE)
            if not config.url:
                copytree(directory / "chroma", chroma)
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"its files cannot be read ({error})") from error
        backend = cls(config, resources, chroma)
        with closed_after_errors(backend, _STORES):
            check_counts(backend._counts(), expected)
            backend._repair_server()
        return backend

    def close(self) -> None:
        """Close both indexes."""
        self._vectors.close()
        self._full_text.close()

    def _counts(self) -> dict[str, int]:
        """Return what a stored state holds, to be compared when it is loaded.

        The vectors on a server are repaired instead of compared.
        """
        counts = self._full_text.count()
        vectors = {"vectors": self._vectors.count()} if self._vectors.embedded else {}
        return {"chunks": counts.chunks, "searchable": counts.searchable} | vectors

    def _embed(self, chunks: Sequence[Chunk]) -> None:
        texts = {key: text for chunk in chunks for key, text in views(chunk).items()}
        self._vectors.add(list(texts), self._resources.embedder.embed(list(texts.values())))

    def _nearest(self, vector: Vectors) -> dict[str, float]:
        """Return chunks by the cosine of their best view, best first."""
        best: dict[str, float] = {}
        for view_key, cosine in self._vectors.nearest(
            vector, _VIEWS_PER_CHUNK * self.config.candidates
        ).items():
            best.setdefault(chunk_key(view_key), cosine)
        return dict(islice(best.items(), self.config.candidates))

    def _repair_server(self) -> None:
        """Add to a Chroma server what it has lost since this state was stored."""
        if not self._vectors.embedded:
            missing = self._vectors.missing(self._full_text.keys())
            if missing:
                self._embed(list(self._full_text.fetch(missing).values()))

    def _prune_server(self) -> None:
        """Remove from a Chroma server what was forgotten while its state here was lost."""
        if not self._vectors.embedded:
            known_keys = set(_view_keys(self._full_text.fetch(self._full_text.keys()).values()))
            last = max(map(turn_seq, known_keys), default=0)
            # Another machine has added what is newer.
            stray = [
                key for key in self._vectors.all_keys() if key not in known_keys and turn_seq(key) <= last
            ]
            self._vectors.delete(stray)

    def _best_chunk_per_turn(self, fused: dict[str, float], query: str, *, limit: int) -> dict[str, Chunk]:
        """Return the best chunk of each turn, best first, without turns that only ask the same question."""
        question = normalize(query) if is_question(query) else None
        best: dict[str, Chunk] = {}
        seqs: set[int] = set()
        for key in fused:
            if turn_seq(key) in seqs:
                continue
            chunk = self._full_text.fetch([key]).get(key)
            if chunk is not None and normalize(chunk.text) != question:
                best[key] = chunk
                seqs.add(turn_seq(key))
            if len(best) == limit:
                break
        return best

    def _evidence(
        self, query: str, vector: Vectors, chunks: dict[str, Chunk], nearest: dict[str, float]
    ) -> dict[str, Evidence]:
        others = self._cosines(vector, [chunk for key, chunk in chunks.items() if key not in nearest])
        cosines = others | nearest
        coverage = self._full_text.coverage(content_words(query), list(chunks))
        return {
            key: Evidence(
                cosine=cosines.get(key, 0.0),
                coverage=coverage[key],
                text=f"{chunk.turn.speaker or ''} {chunk.text}",
                by_assistant=chunk.turn.role == "assistant" and chunk.turn.speaker is None,
            )
            for key, chunk in chunks.items()
        }

    def _cosines(self, vector: Vectors, chunks: Sequence[Chunk]) -> dict[str, float]:
        """Return the cosine of each chunk's best view, for chunks that the vector search did not reach."""
        cosines: dict[str, float] = {}
        for view_key, view_vector in self._vectors.get(_view_keys(chunks)).items():
            key = chunk_key(view_key)
            cosines[key] = max(cosines.get(key, -1.0), float(view_vector @ vector))
        return cosines


def _view_keys(chunks: Iterable[Chunk]) -> list[str]:
    return [key for chunk in chunks for key in views(chunk)]


def _rank(key: str, ranking: dict[str, float]) -> int | None:
    return next((rank for rank, ranked in enumerate(ranking, start=1) if ranked == key), None)


def _hit(
    chunk: Chunk, score: float, evidence: Evidence, bm25_rank: int | None, vector_rank: int | None
) -> Hit:
    ranks = [
        f"{name} rank {rank}" for name, rank in (("BM25", bm25_rank), ("embedding", vector_rank)) if rank
    ]
    return Hit(
        (chunk.turn.seq,),
        score,
        text=chunk.text,
        why=f"Found by {' and '.join(ranks)}; cosine {evidence.cosine:.2f}, {evidence.coverage:.0%} of the question's words.",
    )
