"""Retrieval-augmented generation over past turns: BM25 and embeddings in one learned ranking, with abstention."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field

from memagent.backends.errors import CheckpointError
from memagent.backends.protocol import Embedder, Fingerprint, MemoryBackend, Resources
from memagent.backends.rag.context_index import ContextIndex
from memagent.backends.rag.ranking import Ranked, rank
from memagent.backends.rag.search import find_candidates
from memagent.backends.rag.vectors import VectorIndex, new_store_folder
from memagent.backends.rag.views import view_keys, views
from memagent.backends.records import BackendStats, ConsolidationReport, Hit, Turn, WriteResult
from memagent.backends.shared.chunking import Chunk, split_turn, turn_seq
from memagent.backends.shared.joined_embedder import with_multilingual
from memagent.backends.shared.judging import SearchHit, relevant_items
from memagent.backends.shared.memory_need import asks
from memagent.backends.shared.store_errors import check_counts, closed_after_errors, translate_errors
from memagent.backends.shared.words import content_words

RELEVANCE = Path(__file__).with_name("relevance.json")
"""The weights by which relevance is judged."""
_FORMAT = 5
_MAX_AMONG = 1000
"""Turns that are searched one by one; of more, the searches of all turns find enough."""
_FULL_TEXT_FILE = "full_text.sqlite3"
# pyo3_runtime: Chroma's Rust code panics at damaged files, which Python sees as a BaseException.
_STORES = frozenset({"sqlite3", "chromadb", "httpx", "pyo3_runtime"})
_translated = translate_errors("rag", _STORES)


@dataclass(frozen=True)
class RagConfig:
    """Settings of the memory ``rag``.

    Attributes:
        abstain: return only what seems relevant; switch off for retrieval benchmarks.
        threshold: lowest probability of relevance of a hit, 0 to 1 (see backends/shared/relevance.py).
        margin: hits below this share of the best one's probability are dropped, 0 to 1.
        candidates: chunks taken from each of the two searches, 1 to 1,000.
        url: address of a Chroma server, for several machines; embedded Chroma if empty.
    """

    abstain: bool = True
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.14
    margin: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    candidates: Annotated[int, Field(ge=1, le=1000)] = 100
    url: str = ""


class Rag(MemoryBackend):
    """Finds past turns by full-text search (BM25) and by embeddings, and ranks them by a learned score.

    Remembering costs one embedding a view and two indexed inserts a chunk. Recalling costs one embedding
    and two searches: the vector search grows with the logarithm of the turns, the full-text search with
    the number of turns that share a word with the question. Forgetting rewrites both indexes.

    The full-text index is an SQLite file in the workspace. The vector index is embedded Chroma in the workspace or, if ``url`` is
    set, a Chroma server: then remembering, recalling and forgetting make network calls.
    """

    name: ClassVar[str] = "rag"
    Config: ClassVar[type[RagConfig]] = RagConfig
    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    exact_forget: ClassVar[bool] = True
    consolidates: ClassVar[bool] = True
    seconds_per_turn = 0.04

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
        embedder = with_multilingual(resources.embedder)
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
        """Return the turns that answer a question or bear on a message, by both searches, best first.

        Returns:
            Each hit's score is its probability of relevance, 0 to 1. A text that was told several times is one hit, with all
            its turns, the latest first.
        """
        return self._recall(query, limit)

    @_translated
    def recall_among(self, query: str, seqs: Collection[int], *, limit: int = 5) -> list[Hit]:
        """Search these turns alone, all of them, if they are at most 1,000; see ``recall``.

        Cost: of both indexes, it reads what these turns have.
        """
        if len(seqs) > _MAX_AMONG:
            return super().recall_among(query, seqs, limit=limit)
        return self._recall(query, limit, seqs)

    def _recall(self, query: str, limit: int, seqs: Collection[int] | None = None) -> list[Hit]:
        vector = self._embedder.embed_queries([query])[0]
        candidates = find_candidates(
            query, vector, self._full_text, self._vectors, self.config.candidates, seqs
        )
        ranked = rank(query, candidates, asks=asks(query))
        chosen = relevant_items(
            query,
            ranked,
            partial(self._search_hits, query),
            self.config,
            RELEVANCE,
            self._embedder.name,
            limit=limit,
        )
        return [_hit(item, chance) for item, chance in chosen]

    @_translated
    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Remove turns from both indexes, and rewrite the files in the workspace so that no byte of the turns stays.

        On a Chroma server vectors are deleted, and the server's files stay as they are. The full-text rows say what is left to
        delete, and go last, so a call that failed half-way can be repeated. Cost: proportional to the size of the indexes.

        Returns:
            True.
        """
        known = self._full_text.known(seqs)
        keys = view_keys(self._full_text.fetch(self._full_text.keys(known)).values())
        if keys:
            self._vectors.delete(keys)
            self._vectors.rewrite()
            self._full_text.forget(known)
        return True

    @_translated
    def consolidate(self) -> ConsolidationReport:
        """Rewrite the full-text index and, unless a Chroma server holds it, the vector index compactly. Recall stays the same."""
        turns = self._full_text.count().turns
        self._full_text.compact()
        self._vectors.rewrite()
        if self._vectors.embedded:
            summary = "Rewrote the full-text index and the vector store compactly."
        else:
            summary = "Rewrote the full-text index compactly; the files of the Chroma server are for its operator to compact."
        return ConsolidationReport(turns, turns, summary)

    @_translated
    def stats(self) -> BackendStats:
        """Return counts and sizes; the memory is that of the vectors, float32, unless a Chroma server holds them."""
        counts = self._full_text.count()
        files = [path for path in self._resources.workspace.rglob("*") if path.is_file()]
        vectors = self._vectors.count()
        vector_bytes = vectors * self._embedder.dimension * 4
        return BackendStats(
            items=counts.turns,
            tokens=0,
            bytes_on_disk=sum(path.stat().st_size for path in files),
            bytes_in_memory=vector_bytes if self._vectors.embedded else 0,
            extras={
                "chunks": counts.chunks,
                "vectors": vectors,
                "embedder": self._embedder.name,
            },
        )

    @_translated
    def save(self, directory: Path) -> None:
        """Write a copy of both indexes, and the counts that ``load`` compares.

        Vectors on a server stay there; those of turns that are not here are deleted.
        """
        self._full_text.copy_to(directory / _FULL_TEXT_FILE)
        self._vectors.copy_to(directory / "chroma")
        self._delete_stray_vectors()
        (directory / "state.json").write_text(json.dumps(self._counts()))

    @classmethod
    def load(cls, directory: Path, config: RagConfig, resources: Resources) -> Self:
        """Copy stored indexes to the workspace and compare what they hold with the counts stored beside them.

        Vectors that a server has lost are embedded again.

        Raises:
            CheckpointError: a file is missing or damaged, or the counts differ.
        """
        from shutil import Error, copyfile, copytree

        chroma = new_store_folder(resources.workspace)
        try:
            expected = json.loads((directory / "state.json").read_text())
            copyfile(directory / _FULL_TEXT_FILE, resources.workspace / _FULL_TEXT_FILE)
            if not config.url:
                copytree(directory / "chroma", chroma)
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"its files cannot be read ({error})") from error
        except Error as error:  # of copytree; another process may have stored a newer state meanwhile
            if all(Path(source).exists() for source, *_ in error.args[0]):
                raise
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

    @cached_property
    def _embedder(self) -> Embedder:
        """The shared embedder and the multilingual encoder as one: together they find more, in English too."""
        return with_multilingual(self._resources.embedder)

    def _search_hits(self, query: str, ranked: Sequence[Ranked]) -> list[SearchHit]:
        """Return ranked turns as search hits for the relevance model."""
        coverage = self._full_text.coverage(content_words(query), [item.candidate.key for item in ranked])
        return [
            SearchHit(
                text=item.candidate.text,
                order=max((repeat.created_at, repeat.seq) for repeat in item.repeats),
                author=item.candidate.author,
                score=item.score,
                coverage=coverage[item.candidate.key],
                cosine=item.candidate.cosine,
            )
            for item in ranked
        ]

    def _counts(self) -> dict[str, int]:
        """Return what a stored state holds, to be compared when it is loaded.

        The vectors on a server are repaired instead of compared.
        """
        counts = self._full_text.count()
        vectors = {"vectors": self._vectors.count()} if self._vectors.embedded else {}
        return {"chunks": counts.chunks, "searchable": counts.searchable} | vectors

    def _embed(self, chunks: Sequence[Chunk]) -> None:
        """Embed all views of chunks, and add the vectors to the store or the server. A provider gets the texts."""
        texts = {key: text for chunk in chunks for key, text in views(chunk).items()}
        self._vectors.add(list(texts), self._embedder.embed(list(texts.values())))

    def _repair_server(self) -> None:
        """Add to a Chroma server what it has lost since this state was stored."""
        if not self._vectors.embedded:
            missing = self._vectors.missing(self._full_text.keys())
            if missing:
                self._embed(list(self._full_text.fetch(missing).values()))

    def _delete_stray_vectors(self) -> None:
        """Delete from a Chroma server the vectors of turns that are not here, such as those forgotten while the state here was lost.

        Turns newer than the last one here are spared: another machine has added them.
        """
        if not self._vectors.embedded:
            known_keys = set(view_keys(self._full_text.fetch(self._full_text.keys()).values()))
            last = max(map(turn_seq, known_keys), default=0)
            stray = [
                key for key in self._vectors.all_keys() if key not in known_keys and turn_seq(key) <= last
            ]
            self._vectors.delete(stray)


def _hit(item: Ranked, chance: float) -> Hit:
    candidate = item.candidate
    ranks = [
        f"{name} rank {rank}"
        for name, rank in (("BM25", candidate.bm25_rank), ("embedding", candidate.cosine_rank))
        if rank
    ]
    times = f" Said {len(item.seqs)} times." if len(item.seqs) > 1 else ""
    return Hit(
        item.seqs,
        chance,
        text=candidate.text,
        why=f"Found by {' and '.join(ranks)}; {chance:.0%} likely to bear on it.{times}",
    )
