"""The context bank: turns as a few latent vectors each, which are merged when there are too many of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from memagent.backends.context_bank import ranking, training
from memagent.backends.context_bank.bank import ContextBank
from memagent.backends.context_bank.clusters import Clusters
from memagent.backends.context_bank.config import ContextBankConfig
from memagent.backends.context_bank.consolidation import ConsolidationRule
from memagent.backends.context_bank.latents import LatentCodec
from memagent.backends.context_bank.results import (
    RankedTurn,
    bank_pictures,
    hit_of,
    removals_table,
    search_hits_of,
    summary_of,
    turn_of,
)
from memagent.backends.context_bank.search import BankSearch
from memagent.backends.context_bank.weights import load_weights
from memagent.backends.errors import CheckpointError
from memagent.backends.picture import Picture
from memagent.backends.protocol import Fingerprint, Injection, LocalModel, MemoryBackend, Resources, Vectors
from memagent.backends.records import (
    BackendStats,
    ConsolidationReport,
    Hit,
    TrainingPlan,
    Turn,
    Use,
    WriteResult,
)
from memagent.backends.shared.attention.context import texts_in_attention
from memagent.backends.shared.judging import relevant_items
from memagent.backends.shared.tensors import save_arrays

RELEVANCE = Path(__file__).with_name("relevance.json")
"""The weights by which relevance is judged."""
KEYS = "keys"
"""Their set for the cosines of keys, which imitate one sentence embedder whatever the model."""
_FORMAT = 1
_BANK = "bank.safetensors"


class ContextBankMemory(MemoryBackend):
    """Compresses what it reads to latent vectors, one for 16 tokens, and merges the least important when the bank is full.

    The local model reads each turn; an autoencoder compresses its first and last hidden states. A latent holds a key, by which
    it is found, and its tokens, which can be decoded from it until it is merged. Merging keeps the sum of the keys: turns that
    share a vector are still found by what they mean, no longer by their words. Source: the memory-bank paper, section 6.

    Costs: `remember` runs the model over each turn. `recall` runs it over the question and takes time proportional to the number of
    vectors. `forget` drops vectors, or reads the other turns of a block of 64 again if some of its vectors were merged.
    """

    name: ClassVar[str] = "context_bank"
    Config: ClassVar[type[ContextBankConfig]] = ContextBankConfig
    needs: ClassVar[frozenset[str]] = frozenset({"local_model"})
    exact_forget: ClassVar[bool] = True
    consolidates: ClassVar[bool] = True
    model_channel: ClassVar[bool] = True
    costly: ClassVar[bool] = True
    follows_use: ClassVar[bool] = True
    trainable: ClassVar[bool] = True
    seconds_per_turn = 0.5

    def __init__(self, config: ContextBankConfig, resources: Resources) -> None:
        self.config = config
        self._resources = resources
        local = resources.local_model
        self._codec = LatentCodec(local, load_weights(local, config.ratio, resources.cache).autoencoder)
        self._bank = ContextBank(self._codec.size, config.capacity, config.precision, self._rule)
        self._clusters = Clusters(resources.seed)

    @classmethod
    def fingerprint(cls, config: ContextBankConfig, resources: Resources) -> Fingerprint:
        """Return the format, the model, the autoencoder's weights, and the settings that decide what is stored.

        Raises:
            SettingError: there are no weights for the model.
        """
        local = resources.local_model
        return {
            "format": _FORMAT,
            "model": local.digest,
            "dtype": str(local.model.dtype).removeprefix("torch."),
            "weights": load_weights(local, config.ratio, resources.cache).sha256,
            "capacity": config.capacity,
            "precision": config.precision,
            "policy": config.policy,
            "merge": config.merge,
            "importance": f"{config.alpha} {config.beta} {config.gamma}",
            "seed": resources.seed,
        }

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Encode turns and add them to the bank, which merges vectors where its capacity is reached."""
        known = set(self._bank.turns)
        results = []
        for turn in turns:
            stored = turn.seq not in known
            if stored:
                self._bank.add(turn.seq, self._codec.encode(turn))
                known.add(turn.seq)
            results.append(WriteResult(turn.seq, stored=stored))
        self._changed()
        return results

    def note_use(self, uses: Sequence[Use]) -> None:
        """Count the uses of turns, which make their vectors more important."""
        for use in uses:
            self._bank.note_use(use.seq, use.recalled)
        self._changed()

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Return the turns that answer a question or bear on a message.

        Returns:
            Each hit's score is its probability of relevance, 0 to 1.
        """
        return [hit_of(turn, chance) for turn, chance in self._relevant(query, limit)]

    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> AbstractContextManager[Injection]:
        """Let the model attend to the texts that are decoded from the latents of relevant turns, before its prompt.

        Raises:
            SettingError: The model's kind of attention is not supported.
        """
        relevant = self._relevant(query, self.config.max_injected, exclude)
        texts = self._search.whole_texts([turn.seq for turn, _ in relevant]) if relevant else []
        chosen = [(turn, text, chance) for (turn, chance), text in zip(relevant, texts, strict=True) if text]
        injection = Injection(
            [hit_of(turn, chance) for turn, _, chance in chosen], frozenset(turn.seq for turn, _, _ in chosen)
        )
        return texts_in_attention(
            model, [(turn_of(turn), text, chance) for turn, text, chance in chosen], injection
        )

    def needed_to_forget(self, seqs: Collection[int]) -> Collection[int]:
        """Return the other turns of the blocks in which something was merged that would not have been without these."""
        return self._bank.needed_to_forget(seqs)

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Remove turns; the bank is then, byte for byte, one that never read them.

        Returns:
            False if a turn that must be read again is missing; nothing is changed.
        """
        needed = self._bank.needed_to_forget(seqs)
        vectors = {turn.seq: self._codec.encode(turn) for turn in turns if turn.seq in needed}
        removed = self._bank.forget(seqs, vectors)
        self._changed()
        return removed

    def consolidate(self) -> ConsolidationReport:
        """Return what was merged with what, and why. The bank merges by itself, as soon as its capacity is reached."""
        number = len(self._bank)
        return ConsolidationReport(
            number, number, summary_of(self._bank), (removals_table(self.name, self._bank),)
        )

    def stats(self) -> BackendStats:
        """Return counts, sizes, and how full the bank is."""
        turns = self._bank.turns
        return BackendStats(
            items=len(self._bank),
            tokens=0,
            bytes_on_disk=0,
            bytes_in_memory=self._bank.bytes,
            extras={
                "turns": len(turns),
                "capacity": self.config.capacity,
                "load": round(len(self._bank) / self.config.capacity, 4),
                "original_vectors": sum(turns.values()),
                "merged_vectors": int((self._bank.counts > 1).sum()),
                "removals": self._bank.removals,
                "ratio": self.config.ratio,
                "model": self._resources.local_model.name,
            },
        )

    def picture(self) -> Sequence[Picture]:
        """Return its figures, its clusters, and what was merged."""
        if self.config.clusters:
            self._clusters.update(self._vector_keys)
        return [*super().picture(), *bank_pictures(self.name, self._bank, self._clusters)]

    def save(self, directory: Path) -> None:
        """Write the bank as safetensors."""
        save_arrays(self._bank.tensors(), directory / _BANK)

    @classmethod
    def load(cls, directory: Path, config: ContextBankConfig, resources: Resources) -> Self:
        """Read the state that ``save`` wrote.

        Raises:
            CheckpointError: its file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        backend = cls(config, resources)
        try:
            backend._bank = ContextBank.restore(
                load_file(directory / _BANK),
                backend._codec.size,
                config.capacity,
                config.precision,
                backend._rule,
            )
        except (FileNotFoundError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"its file cannot be read ({error})") from error
        return backend

    @classmethod
    def training_plan(cls, config: ContextBankConfig, resources: Resources) -> TrainingPlan:
        """Return what training the autoencoder of the local model takes."""
        return training.plan(config, resources)

    @classmethod
    def train(cls, config: ContextBankConfig, resources: Resources) -> None:
        """Train the autoencoder of the local model; see ``training.train``."""
        training.train(config, resources)

    def _relevant(
        self, query: str, limit: int, exclude: Collection[int] = ()
    ) -> list[tuple[RankedTurn, float]]:
        """Return the turns that bear on a message, or all if the memory does not abstain, with their probabilities, best first."""
        ranked = self._search.ranked(query, exclude, limit) if len(self._bank) else []
        return relevant_items(query, ranked, search_hits_of, self.config, RELEVANCE, KEYS, limit=limit)

    @cached_property
    def _search(self) -> BankSearch:
        return BankSearch(self._bank, self._codec, self._candidates if self.config.clusters else None)

    def _candidates(self, key: Vectors) -> NDArray[np.int64]:
        """Return the vectors in the clusters that a question attends to."""
        self._clusters.update(self._vector_keys)
        return self._clusters.candidates(key, self.config.clusters)

    @property
    def _vector_keys(self) -> Vectors:
        """Unit keys of all vectors, ``[vectors, key_size]``."""
        return ranking.unit(self._bank.vectors[:, : self._codec.key_size])

    @property
    def _rule(self) -> ConsolidationRule:
        rule: ConsolidationRule = self.config.rule(self._codec.key_size, self._resources.seed)
        return rule

    def _changed(self) -> None:
        self.__dict__.pop("_search", None)
