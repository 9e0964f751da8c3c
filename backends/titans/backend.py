"""Titans as a memory of conversations: two memories of fixed size learn each turn once, at the time it is read.

The neural memory points at chunks for the prompt (text channel). The associative memory gives chunks back word by word for
the model's attention (model channel).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from memagent.backends.errors import CheckpointError
from memagent.backends.picture import Picture
from memagent.backends.protocol import Fingerprint, Injection, LocalModel, MemoryBackend, Resources
from memagent.backends.records import BackendStats, Hit, Turn, WriteResult
from memagent.backends.shared.attention.context import texts_in_attention
from memagent.backends.shared.judging import MIN_JUDGED, SearchHit, author_of, judge, relevant
from memagent.backends.shared.memory_need import memory_need, repeats_question
from memagent.backends.shared.tensors import save_tensors
from memagent.backends.shared.words import shared_words
from memagent.backends.titans.associative_memory import AssociativeMemory
from memagent.backends.titans.chunks import Chunk, load_chunks, save_chunks, split_text, text_with_speaker
from memagent.backends.titans.config import TitansMemoryConfig
from memagent.backends.titans.decoding import decode
from memagent.backends.titans.neural_memory import NeuralMemoryNetwork
from memagent.backends.titans.results import hit_of, surprise_series, write_result
from memagent.backends.titans.write_statistics import WriteStatistics

RELEVANCE = Path(__file__).with_name("relevance.json")
"""The weights by which relevance is judged."""
_FORMAT = 3
_NEURAL_MEMORY = "neural_memory.safetensors"
_ASSOCIATIVE_MEMORY = "associative_memory.safetensors"
_WORDS = "words.json"
_CHUNKS = "chunks.jsonl"
# Relearning fewer chunks than these takes no time that needs a progress bar.
_PROGRESS_CHUNKS = 64
# Cosine; that of "I live in Lisbon." and "I moved to Porto last week." is 0.6.
_SAME_SUBJECT = 0.55


class Titans(MemoryBackend):
    """Learns turns in networks of fixed size, for study: recalls plain facts, and less of people's real talk than bm25.

    Each turn is learned once, while it is read. `recall` returns the chunks that the neural memory points at; the model channel
    decodes them from the weights. The networks keep their size whatever they read. Beside them the memory keeps the chunks
    it can return, each with its embedding. A chunk that the networks have overwritten or forgotten is not recalled, though
    it is kept.

    Costs: `remember` takes one embedding and one step of gradient descent for each chunk. `recall` takes one embedding and its
    inner products with all chunks. `attached` takes a beam search that grows with the number of words that texts begin with.
    `forget` retrains the networks from the embeddings of the remaining chunks.
    """

    name: ClassVar[str] = "titans"
    Config: ClassVar[type[TitansMemoryConfig]] = TitansMemoryConfig
    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    exact_forget: ClassVar[bool] = True
    model_channel: ClassVar[bool] = True
    regenerates: ClassVar[bool] = True
    seconds_per_turn = 0.06

    def __init__(self, config: TitansMemoryConfig, resources: Resources) -> None:
        self.config = config
        self._resources = resources
        self._reset()

    def _reset(self) -> None:
        """Forget all chunks, and let fresh networks be made on next use. Files stay."""
        self.__dict__.pop("_neural_memory", None)
        self.__dict__.pop("_associative_memory", None)
        self._chunks: list[Chunk] = []
        self._embeddings: list[Tensor] = []
        self._seqs: set[int] = set()
        self._last_embeddings: dict[str, Tensor] = {}

    @cached_property
    def _neural_memory(self) -> NeuralMemoryNetwork:
        """Made untrained on first use; the embedder tells the dimension."""
        config = self.config
        return NeuralMemoryNetwork(
            self._resources.embedder.dimension,
            config.memory_depth,
            config.memory_width,
            config.theta,
            config.eta,
            config.alpha,
            self._resources.seed,
        )

    @cached_property
    def _associative_memory(self) -> AssociativeMemory:
        """Made untrained on first use; the embedder tells the dimension."""
        config = self.config
        return AssociativeMemory(
            self._resources.embedder.dimension, config.key_expansion, config.alpha, self._resources.seed
        )

    @classmethod
    def fingerprint(cls, config: TitansMemoryConfig, resources: Resources) -> Fingerprint:
        """Return the format, the embedder with its weights' digest, the seed and the settings that shape the networks."""
        return {
            "format": _FORMAT,
            "embedder": resources.embedder.name,
            "embedder_digest": resources.embedder.digest,
            "memory_depth": config.memory_depth,
            "memory_width": config.memory_width,
            "theta": config.theta,
            "eta": config.eta,
            "alpha": config.alpha,
            "key_expansion": config.key_expansion,
            "seed": resources.seed,
        }

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Split turns into chunks and train both networks on them, one chunk after the other.

        Returns:
            Each turn's surprise is the loss of its chunks before they are learnt: higher for what the memory could not predict.
            Its strength says how much of that the write took away, 0 to 1.
        """
        first = len(self._chunks)
        new = [(turn, text) for turn in turns if turn.seq not in self._seqs for text in split_text(turn.text)]
        if new:
            vectors = self._resources.embedder.embed([text_with_speaker(turn, text) for turn, text in new])
            self._learn(
                (turn, text, embedding)
                for (turn, text), embedding in zip(new, torch.from_numpy(vectors), strict=True)
            )
        return [write_result(turn.seq, self._chunks[first:]) for turn in turns]

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Return the chunks whose embeddings have the largest inner products with the neural memory's output."""
        if not self._chunks:
            return []
        abstain, embedding = self.config.abstain, self._embed(query)
        best = self._nearest(query, embedding, max(limit, MIN_JUDGED) if abstain else limit)
        if abstain:
            best = [(index, score) for index, score in best if score >= self.config.min_score]
            best = [best[place] for place in self._relevant(query, embedding, [index for index, _ in best])]
        return [hit_of(self._chunks[index], score, regenerated=False) for index, score in best[:limit]]

    def _nearest(self, query: str, embedding: Tensor, limit: int) -> list[tuple[int, float]]:
        """Return the places of the chunks that the neural memory points at with their scores, best first, one for each turn."""
        like_query, successor = self._neural_memory.retrieve(embedding)
        scores = torch.stack(self._embeddings) @ (like_query + self.config.successor_weight * successor)
        best: dict[int, tuple[int, float]] = {}
        for index in scores.argsort(descending=True, stable=True).tolist():
            chunk = self._chunks[index]
            if not repeats_question(query, chunk.text):
                best.setdefault(chunk.turn.seq, (index, float(scores[index])))
            if len(best) == limit:
                break
        return list(best.values())

    def _relevant(self, query: str, embedding: Tensor, indices: Sequence[int]) -> list[int]:
        """Return which of the chunks at ``indices`` bear on a query, as places in that list."""
        search_hits = self._search_hits(query, embedding, indices)
        chances = judge(query, memory_need(query), search_hits, RELEVANCE, self._resources.embedder.name)
        return relevant(chances, search_hits, self.config.threshold, self.config.margin)

    def _search_hits(self, query: str, embedding: Tensor, indices: Sequence[int]) -> list[SearchHit]:
        """Return chunks as their relevance is judged; how well the networks know them is judged apart."""
        chunks = [self._chunks[index] for index in indices]
        return [
            SearchHit(
                chunk.text,
                (chunk.turn.created_at, chunk.turn.seq),
                author_of(chunk.turn),
                0.0,
                shared_words(query, chunk.text),
                float(self._embeddings[index] @ embedding),
            )
            for index, chunk in zip(indices, chunks, strict=True)
        ]

    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> AbstractContextManager[Injection]:
        """Let the model attend to the chunks that the associative memory decodes for ``query``, before its prompt.

        This is Titans' memory as context (section 4.1): the memory's output stands before the context, in the attention of
        every layer. The text comes from the weights alone. The kept chunks only give the turns that have it; a text that no chunk
        has is dropped, as a blend of several. Of two chunks about the same subject the later one replaces the earlier one if
        it scores better.

        Raises:
            SettingError: The model's kind of attention is not supported.
        """
        decoded = self._decoded_chunks(query, exclude)
        texts = [(chunks[-1].turn, chunks[-1].text, score) for chunks, score in decoded]
        hits = [hit_of(chunks[-1], score, regenerated=True) for chunks, score in decoded]
        seqs = frozenset(chunk.turn.seq for chunks, _ in decoded for chunk in chunks)
        return texts_in_attention(model, texts, Injection(hits, seqs))

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Retrain fresh networks from the embeddings of the remaining turns, as if these had never been read."""
        remaining = [
            (chunk.turn, chunk.text, embedding)
            for chunk, embedding in zip(self._chunks, self._embeddings, strict=True)
            if chunk.turn.seq not in seqs
        ]
        if len(remaining) < len(self._chunks):
            self._reset()
            if len(remaining) > _PROGRESS_CHUNKS:
                label = "Retraining the memory without the forgotten turns"
                self._learn(self._resources.progress(remaining, total=len(remaining), label=label))
            else:
                self._learn(remaining)
        return True

    def stats(self) -> BackendStats:
        """Return counts and sizes; the networks' ``memory_bytes`` stay the same however many turns they read."""
        network_bytes = self._neural_memory.bytes + self._associative_memory.bytes
        embedding_bytes = sum(embedding.nbytes for embedding in self._embeddings)
        text_bytes = sum(len(chunk.text.encode()) for chunk in self._chunks)
        total = network_bytes + embedding_bytes + text_bytes
        last_write = self._chunks[-1].write if self._chunks else WriteStatistics(0.0, 0.0)
        mean_surprise = sum(chunk.write.surprise for chunk in self._chunks) / max(1, len(self._chunks))
        return BackendStats(
            items=len(self._seqs),
            tokens=0,
            bytes_on_disk=total,
            bytes_in_memory=total,
            extras={
                "memory_bytes": network_bytes,
                "words": len(self._associative_memory.vocabulary),
                "chunks": len(self._chunks),
                "mean_surprise": round(mean_surprise, 3),
                "last_surprise": round(last_write.surprise, 3),
                "last_surprise_reduction": round(last_write.surprise_reduction, 3),
                "embedder": self._resources.embedder.name,
            },
        )

    def picture(self) -> Sequence[Picture]:
        """Return its figures, and the surprise of each turn."""
        return [*super().picture(), surprise_series(self.name, self._chunks)]

    def save(self, directory: Path) -> None:
        """Write the networks and embeddings as safetensors, words and chunks as JSON."""
        tensors = {f"memory.{name}": tensor for name, tensor in self._neural_memory.tensors().items()}
        if self._embeddings:
            tensors["embeddings"] = torch.stack(self._embeddings)
        save_tensors(tensors, directory / _NEURAL_MEMORY)
        memory = self._associative_memory
        save_tensors(memory.tensors(), directory / _ASSOCIATIVE_MEMORY)
        words = {"vocabulary": memory.vocabulary, "first_words": memory.first_words}
        (directory / _WORDS).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
        save_chunks(self._chunks, directory / _CHUNKS)

    @classmethod
    def load(cls, directory: Path, config: TitansMemoryConfig, resources: Resources) -> Self:
        """Read the networks and chunks that ``save`` wrote.

        Raises:
            CheckpointError: a file is missing or damaged, or does not fit the settings.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        backend = cls(config, resources)
        try:
            tensors = load_file(directory / _NEURAL_MEMORY)
            embeddings = tensors.pop("embeddings", None)
            backend._neural_memory.restore(
                {name.removeprefix("memory."): tensor for name, tensor in tensors.items()}
            )
            backend._associative_memory.restore(
                load_file(directory / _ASSOCIATIVE_MEMORY),
                **json.loads((directory / _WORDS).read_text(encoding="utf-8")),
            )
            backend._chunks = list(load_chunks(directory / _CHUNKS))
        except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"its files cannot be read ({error})") from error
        backend._embeddings = [] if embeddings is None else list(embeddings)
        if len(backend._embeddings) != len(backend._chunks):
            raise CheckpointError(
                f"it has {len(backend._chunks)} chunks but {len(backend._embeddings)} embeddings"
            )
        for chunk, embedding in zip(backend._chunks, backend._embeddings, strict=True):
            backend._seqs.add(chunk.turn.seq)
            backend._last_embeddings[chunk.turn.session] = embedding
        return backend

    def _learn(self, texts: Iterable[tuple[Turn, str, Tensor]]) -> None:
        """Learn chunks, given as (turn, text, embedding)."""
        for turn, text, embedding in texts:
            write = self._neural_memory.write(embedding, self._last_embeddings.get(turn.session))
            self._associative_memory.write(embedding, text)
            self._chunks.append(Chunk(turn, text, write))
            self._embeddings.append(embedding)
            self._seqs.add(turn.seq)
            self._last_embeddings[turn.session] = embedding

    def _embed(self, query: str) -> Tensor:
        return torch.from_numpy(self._resources.embedder.embed_queries([query])[0])

    def _decoded_chunks(self, query: str, exclude: Collection[int]) -> list[tuple[list[Chunk], float]]:
        """Decode texts for a query; return each as its chunks, latest last, with its score, best first."""
        if not self._chunks:
            return []
        embedding = self._embed(query)
        # The neural memory's output is nearer to the answer's embedding than the question's is.
        retrieved = self._neural_memory.retrieve(embedding)[0]
        address = normalize(embedding + normalize(retrieved, dim=0), dim=0)
        indices_by_text: dict[str, list[int]] = {}
        for index, chunk in enumerate(self._chunks):
            indices_by_text.setdefault(chunk.text.strip(), []).append(index)
        min_score = self.config.decoding_threshold if self.config.abstain else 0.0
        decoded: list[tuple[list[Chunk], float]] = []
        better_indices: list[int] = []
        last_indices: list[int] = []
        for text, score in decode(self._associative_memory, address):
            indices = indices_by_text.get(text, [])
            chunks = [self._chunks[index] for index in indices]
            excluded = any(chunk.turn.seq in exclude for chunk in chunks)
            if score < min_score or not chunks or excluded or repeats_question(query, text):
                continue
            if not any(self._supersedes(better, indices[-1]) for better in better_indices):
                decoded.append((chunks, score))
                last_indices.append(indices[-1])
            better_indices.append(indices[-1])
        if self.config.abstain:
            decoded = [decoded[place] for place in self._relevant(query, embedding, last_indices)]
        return decoded[: self.config.max_decoded]

    def _supersedes(self, index: int, other: int) -> bool:
        """Return whether a chunk is later than another one and about the same subject."""
        later, earlier = self._chunks[index].turn, self._chunks[other].turn
        is_later = index > other and later.created_at >= earlier.created_at  # a corrected turn keeps its time
        return is_later and float(self._embeddings[index] @ self._embeddings[other]) > _SAME_SUBJECT
