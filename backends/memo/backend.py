"""MeMo as a memory of conversations: what it recalls is regenerated from correlation matrices, and forgotten exactly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from memagent.backends.errors import CheckpointError
from memagent.backends.memo import ranking
from memagent.backends.memo.config import MemoConfig
from memagent.backends.memo.index import Rows
from memagent.backends.memo.results import hit_of, parts_of, search_hits_of, stored_text, table_of, turn_of
from memagent.backends.memo.segments import parse_state
from memagent.backends.memo.store import MemoStore, StoredText
from memagent.backends.memo.tokenizer import digest
from memagent.backends.picture import Picture
from memagent.backends.protocol import Fingerprint, Injection, LocalModel, MemoryBackend, Resources, Vectors
from memagent.backends.records import BackendStats, Hit, Turn, WriteResult
from memagent.backends.shared.attention.context import texts_in_attention
from memagent.backends.shared.chunking import split_turn
from memagent.backends.shared.judging import relevant_items
from memagent.backends.shared.linear import weight_vector
from memagent.backends.shared.memory_need import repeats_question
from memagent.backends.shared.multilingual import MultilingualEmbedder
from memagent.backends.shared.tensors import save_tensors

RELEVANCE = Path(__file__).with_name("relevance.json")
"""The weights by which relevance is judged."""
CENTRES = Path(__file__).with_name("centres.safetensors")
"""The mean embedding of talk, by the embedder's name: what all texts share tells none from another."""
_FORMAT = 1
_MATRICES = "matrices.safetensors"
_SEGMENTS = "segments.json"


class Memo(MemoryBackend):
    """Holds texts in correlation matrices (MeMo), regenerates them word by word, and forgets single turns to the last bit.

    An index matrix finds the code of a text by its words and its meaning; sequence matrices regenerate the text from the code.
    The state consists of matrices, ids of turns, and salted hashes: no text, no embedding. What is not regenerated exactly is
    not recalled.

    Costs: `remember` takes one embedding and some milliseconds of matrix work for each turn. `recall` takes time
    proportional to the number of turns for the index, and regenerates and embeds ``candidates`` texts. `forget` regenerates and
    subtracts the turns.
    """

    name: ClassVar[str] = "memo"
    Config: ClassVar[type[MemoConfig]] = MemoConfig
    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    exact_forget: ClassVar[bool] = True
    model_channel: ClassVar[bool] = True
    regenerates: ClassVar[bool] = True
    seconds_per_turn = 0.035

    def __init__(self, config: MemoConfig, resources: Resources) -> None:
        self.config = config
        self._resources = resources
        self._store = MemoStore(resources.seed)

    @classmethod
    def fingerprint(cls, config: MemoConfig, resources: Resources) -> Fingerprint:
        """Return the format, the seed, and the digests of the tokenizer, of the embedder's weights and of the centres."""
        return {
            "format": _FORMAT,
            "tokenizer": digest(),
            "embedder": resources.embedder.name,
            "embedder_digest": resources.embedder.digest,
            "centres": hashlib.sha256(CENTRES.read_bytes()).hexdigest(),
            "seed": resources.seed,
        }

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Write turns into the matrices, long ones in several segments."""
        known = {segment.seq for segment in self._store.segments}
        results = []
        for turn in turns:
            texts = [] if turn.seq in known else [stored_text(turn, chunk.text) for chunk in split_turn(turn)]
            if texts:
                self._store.add(turn.id, turn.seq, texts, [self._rows(text) for text in texts])
                known.add(turn.seq)
            results.append(WriteResult(turn.seq, stored=bool(texts)))
        return results

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Return the texts that answer a question or bear on a message, regenerated from the matrices.

        Returns:
            Each hit's score is its probability of relevance, 0 to 1.
        """
        return [hit_of(text, chance, self._store.sequences) for text, chance in self._relevant(query, limit)]

    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> AbstractContextManager[Injection]:
        """Let the model attend to what is regenerated for ``query``, before its prompt.

        Raises:
            SettingError: The model's kind of attention is not supported.
        """
        chosen = self._relevant(query, self.config.max_injected, exclude)
        hits = [hit_of(text, chance, self._store.sequences) for text, chance in chosen]
        texts = [(turn_of(text), text.text, chance) for text, chance in chosen]
        return texts_in_attention(
            model, texts, Injection(hits, frozenset(text.segment.seq for text, _ in chosen))
        )

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Regenerate the turns and subtract them; the state is then, byte for byte, one that never read them.

        Returns:
            False if a turn cannot be regenerated exactly; nothing is changed.
        """
        segments = self._store.of_turns(seqs)
        texts = self._store.regenerate(segments)
        if len(texts) < len(segments):
            return False
        return self._store.remove([(text, self._rows(text.text)) for text in texts])

    def stats(self) -> BackendStats:
        """Return counts, sizes, and how full the fullest sequence matrix is."""
        sequences = self._store.sequences
        loads = [sequences.load_of(name) for name in sequences.matrices]
        accuracies = [sequences.accuracy_of(name) for name in sequences.matrices]
        return BackendStats(
            items=len({segment.seq for segment in self._store.segments}),
            tokens=sum(sequences.pairs.values()),
            bytes_on_disk=0,
            bytes_in_memory=self._store.bytes,
            extras={
                "segments": len(self._store.segments),
                "sequence_matrices": len(loads),
                "index_matrices": len(self._store.index.matrices),
                "highest_load": round(max(loads, default=0.0), 3),
                "lowest_predicted_accuracy": round(min(accuracies, default=1.0), 6),
                "embedder": self._resources.embedder.name,
            },
        )

    def picture(self) -> Sequence[Picture]:
        """Return its figures, and how full each sequence matrix is."""
        return [*super().picture(), table_of(self.name, self._store.sequences)]

    def save(self, directory: Path) -> None:
        """Write the matrices and hashes as safetensors, ids and sizes as JSON."""
        save_tensors(self._store.tensors(), directory / _MATRICES)
        (directory / _SEGMENTS).write_text(json.dumps(asdict(self._store.state)), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path, config: MemoConfig, resources: Resources) -> Self:
        """Read the state that ``save`` wrote.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        backend = cls(config, resources)
        try:
            state = parse_state((directory / _SEGMENTS).read_text(encoding="utf-8"))
            backend._store.restore(state, load_file(directory / _MATRICES))
        except (FileNotFoundError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"its files cannot be read ({error})") from error
        return backend

    def _relevant(
        self, query: str, limit: int, exclude: Collection[int] = ()
    ) -> list[tuple[ranking.Text, float]]:
        """Return the texts that bear on a message, or all if the memory does not abstain, with their probabilities, best first."""
        ranked = [text for text in self._ranked(query) if text.segment.seq not in exclude]
        return relevant_items(
            query, ranked, partial(search_hits_of, query), self.config, RELEVANCE, limit=limit
        )

    def _ranked(self, query: str) -> list[ranking.Text]:
        """Return the best segment of each turn, as far as it can be regenerated, best first; a repeated question is left out."""
        if not self._store.segments:
            return []
        index = self._indexed(query)
        index_scores = index @ weight_vector(ranking.WEIGHTS, "index", ranking.INDEX_FEATURES)
        texts, features = self._featured(query, index, index_scores)
        scores = features @ weight_vector(ranking.WEIGHTS, "text", ranking.TEXT_FEATURES)
        ranked = [texts[place] for place in np.argsort(-scores, kind="stable").tolist()]
        best = {text.segment.seq: text for text in reversed(ranked)}
        return [
            text
            for text in ranked
            if best[text.segment.seq] is text and not repeats_question(query, text.text)
        ]

    def _indexed(self, query: str) -> Vectors:
        """Return the features of all segments by the index, ``[segments, features]``."""
        segments = self._store.segments
        centred = self._resources.embedder.embed_queries([query])[0] - self._centre
        words, meaning = self._store.index.search(query, centred, segments, self._store.columns)
        return ranking.index_features(words, meaning, [segment.seq for segment in segments])

    def _featured(self, query: str, index: Vectors, scores: Vectors) -> tuple[list[ranking.Text], Vectors]:
        """Regenerate the best segments by the index; return their texts, by seq, with the features of their final score."""
        best = sorted(np.argsort(-scores, kind="stable")[: self.config.candidates].tolist())
        segments = {self._store.segments[place]: place for place in best}
        texts = self._read(query, self._store.regenerate(list(segments)))
        rows = [segments[text.segment] for text in texts]
        return texts, ranking.text_features(query, index[rows], scores[rows], texts)

    def _read(self, query: str, stored: Sequence[StoredText]) -> list[ranking.Text]:
        """Return regenerated texts with what speaks for them."""
        parts = [parts_of(item.text) for item in stored]
        texts = [text for _, _, text in parts]
        if not texts:
            return []
        vectors = MultilingualEmbedder().embed_queries([query, *texts])
        cosines = vectors[1:] @ vectors[0]
        return [
            ranking.Text(item.segment, speaker, role, text, item.confidence, float(cosine))
            for item, (role, speaker, text), cosine in zip(stored, parts, cosines, strict=True)
        ]

    def _rows(self, stored_text: str) -> Rows:
        """Return the active rows of a text in the index.

        Texts are embedded one by one: in a batch, the last bits of an embedding depend on the others, and forgetting has to find the
        same rows again.
        """
        _, speaker, text = parts_of(stored_text)
        named = f"{speaker}: {text}" if speaker else text
        centred = self._resources.embedder.embed([named])[0] - self._centre
        return {
            "words": self._store.index.word_rows(named),
            "meaning": self._store.index.meaning_rows(centred),
        }

    @cached_property
    def _centre(self) -> Vectors:
        """The mean embedding of talk for this embedder; zeros if none is shipped."""
        from safetensors.numpy import load_file

        embedder = self._resources.embedder
        centre = load_file(CENTRES).get(embedder.name)
        return np.zeros(embedder.dimension, np.float32) if centre is None else centre
