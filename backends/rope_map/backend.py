"""The RoPE memory map: past turns as unrotated keys and values that the model itself finds and attends to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import log
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from memagent.backends.errors import CheckpointError, SettingError
from memagent.backends.picture import Picture
from memagent.backends.protocol import Fingerprint, Injection, LocalModel, MemoryBackend, Resources
from memagent.backends.records import BackendStats, ConsolidationReport, Hit, TrainingPlan, Turn, WriteResult
from memagent.backends.rope_map import calibration
from memagent.backends.rope_map.addressing import CalibratedHeads
from memagent.backends.rope_map.chunk_table import ChunkTable
from memagent.backends.rope_map.index import AddressingIndex
from memagent.backends.rope_map.results import attention_grid
from memagent.backends.rope_map.search import ChunkSearch
from memagent.backends.shared.attention.chunks import TurnTokenizer
from memagent.backends.shared.attention.encoder import AttentionEncoder, KeysAndValues
from memagent.backends.shared.attention.families import supported_family
from memagent.backends.shared.attention.hooks import attention_hook
from memagent.backends.shared.attention.injection import InjectedKeysAndValues, Placement
from memagent.backends.shared.attention.pages import PageStore, link_or_copy
from memagent.backends.shared.attention.quantization import Precision
from memagent.backends.shared.tensors import save_tensors

_FORMAT = 3
# Calibrating on two CPU cores: 2.5 minutes for half a billion parameters.
_MINUTES_PER_BILLION = 5.0
_CALIBRATION_BYTES = 5_000_000
# So many chunks are written at a time.
_BATCH = 64


@dataclass(frozen=True)
class RopeMapConfig:
    """Settings of the RoPE memory map.

    Attributes:
        abstain: return only relevant chunks, and attend to them only in mode chunk; switch off for retrieval benchmarks.
        mode: chunk (attend to the whole chunks that the search finds) or token (the paper's plain form: each head
            attends to the best single tokens of all memory; slow, and inaccurate in a large memory).
        chunks: most chunks attended to in one reply, in mode chunk.
        rerank: how many of the best chunks are reranked by query likelihood; 0: none, in a third of the time.
        top_k: memory tokens that each query of each head attends to, in mode token.
        placement: where attended chunks stand, in mode chunk: consecutive (in order, right before the prompt) or fixed
            (all at position 0, all queries at the offset).
        offset: distance of fixed memory, in tokens; the paper's is 4096.
        context: how many chunks of its session the model reads before a chunk.
        precision: of stored keys and values: bf16, int8 or int4.
        cache_mb: most memory for chunks read back lately, in megabytes.
    """

    abstain: bool = True
    mode: Literal["chunk", "token"] = "chunk"
    chunks: Annotated[int, Field(ge=1, le=64)] = 3
    rerank: Annotated[int, Field(ge=0, le=256)] = 20
    top_k: Annotated[int, Field(ge=1, le=4096)] = 16
    placement: Placement = "consecutive"
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 4096
    context: Annotated[int, Field(ge=0, le=16)] = 2
    precision: Precision = "bf16"
    cache_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 256


class RopeMap(MemoryBackend):
    """Stores the keys and values that the model computed while it read, and lets its attention find and use them.

    The first use with a model calibrates its heads (half a minute to some minutes) and writes the result to
    ``resources.cache``, if there is one.

    Remembering reads a turn with the model, after the turns before it. Recalling runs a question through the model, searches
    the keys and values of calibrated heads, and reranks the best chunks by query likelihood. A reply attends to the chunks
    found, a few dozen tokens, in every layer. The map grows with what it reads: some 14 KB per token for a model of half
    a billion parameters. Source: InfLLM (arXiv 2402.04617) for attention over unrotated keys at one distance.
    """

    name: ClassVar[str] = "rope_map"
    Config: ClassVar[type[RopeMapConfig]] = RopeMapConfig
    needs: ClassVar[frozenset[str]] = frozenset({"local_model"})
    exact_forget: ClassVar[bool] = True
    consolidates: ClassVar[bool] = True
    model_channel: ClassVar[bool] = True
    costly: ClassVar[bool] = True
    trainable: ClassVar[bool] = True
    seconds_per_turn = 0.4
    first_use = "Its first use with a model calibrates it: half a minute to some minutes."

    def __init__(self, config: RopeMapConfig, resources: Resources) -> None:
        self.config = config
        self._resources = resources
        self._encoder = AttentionEncoder(resources.local_model)
        self._tokenizer = TurnTokenizer(resources.local_model.tokenizer)
        self._chunks = ChunkTable(self._tokenizer)
        self._pages = PageStore(resources.workspace / "pages", config.precision, config.cache_mb * 1_000_000)

    @classmethod
    def fingerprint(cls, config: RopeMapConfig, resources: Resources) -> Fingerprint:
        """Return what a stored state depends on.

        Raises:
            SettingError: the model is of no supported family.
        """
        local = resources.local_model
        supported_family(local.model)
        rope = json.dumps(getattr(local.model.config, "rope_parameters", None) or {}, sort_keys=True)
        tokenizer = local.tokenizer.backend_tokenizer.to_str().encode()
        return {
            "format": _FORMAT,
            "model": local.digest,
            "dtype": str(local.model.dtype).removeprefix("torch."),
            "rope": rope,
            "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
            "calibration": calibration.fingerprint(local, config.context),
            "context": config.context,
            "precision": config.precision,
        }

    @classmethod
    def training_plan(cls, config: RopeMapConfig, resources: Resources) -> TrainingPlan:
        """Return what calibrating the model's heads takes. Whoever first uses the map in a model calibrates it, too."""
        local = resources.local_model
        supported_family(local.model)
        num_parameters = sum(parameter.numel() for parameter in local.model.parameters())
        done = (
            resources.cache is not None
            and calibration.calibration_path(resources.cache, local, config.context).exists()
        )
        return TrainingPlan(
            summary=f"Selects and weights the attention heads of {local.name} on generated dialogues.",
            minutes=_MINUTES_PER_BILLION * num_parameters / 1e9,
            bytes=_CALIBRATION_BYTES,
            done=done,
            resumable=False,
        )

    @classmethod
    def train(cls, config: RopeMapConfig, resources: Resources) -> None:
        """Calibrate the model's heads and keep the result in ``resources.cache``.

        Raises:
            SettingError: the model is of no supported family.
        """
        local = resources.local_model
        calibration.load_or_calibrate(
            local,
            AttentionEncoder(local),
            TurnTokenizer(local.tokenizer),
            config.context,
            resources.cache,
            resources.progress,
        )

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Read new turns with the model and store their keys and values."""
        numbers = self._chunks.add(turns)
        self._store(numbers)
        stored_seqs = {self._chunks[number].turn.seq for number in numbers}
        return [WriteResult(turn.seq, stored=turn.seq in stored_seqs) for turn in turns]

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Return the best chunk of each relevant turn, best first; a score 1 higher means e times as likely."""
        best: dict[int, Hit] = {}
        for number, score in self._search.search(query):
            seq = self._chunks[number].turn.seq
            if len(best) == limit:
                break
            best.setdefault(seq, self._hit(number, score))
        return list(best.values())

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Injection]:
        """Let the model attend to the chunks relevant to ``query``, or to all of memory in mode token.

        Args:
            model: the one that made the map.
            query: the user's message.
            exclude: seqs of turns that are not attended to, such as those in the prompt.

        Raises:
            SettingError: the model is another one.
        """
        if model.digest != self._resources.local_model.digest:
            raise SettingError(
                f"The map holds keys of {self._resources.local_model.name}; {model.name} cannot attend to them. "
                "Use that model, or read the journal with this one, by "
                f"`memagent backends rebuild {self.name} --model {model.name}` (and --user, --set as here)."
            )
        excluded = set(self._chunks.numbers(exclude))
        if self.config.mode == "token":
            chosen = [(number, 0.0) for number in self._pages.chunk_numbers() if number not in excluded]
        else:
            ranked = self._search.search(query)
            remaining = ((number, score) for number, score in ranked if number not in excluded)
            chosen = list(islice(remaining, self.config.chunks))
        if not chosen:
            yield Injection()
            return
        with attention_hook(model.model, self._injected(dict(chosen))):
            shown = [] if self.config.mode == "token" else chosen
            yield Injection(
                [self._hit(number, score) for number, score in shown],
                frozenset(seq for number, _ in chosen for seq in self._seqs_read_for(number)),
            )

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Remove the turns' pages and index entries, and read again the chunks that were read after them."""
        followers = {
            follower
            for number in self._chunks.numbers(seqs)
            for follower in self._chunks.following(number, self.config.context)
        }
        removed = self._chunks.remove(seqs)
        followers -= {number for number, _ in removed}
        affected = [(number, len(self._chunks[number].ids)) for number in sorted(followers)]
        self._pages.delete([number for number, _ in (*removed, *affected)])
        self._index.delete([*removed, *affected])
        self._store([number for number, _ in affected])
        return True

    def consolidate(self) -> ConsolidationReport:
        """Merge small page files; what can be recalled stays the same."""
        before, after = self._pages.compact()
        turns = self._chunks.num_turns
        return ConsolidationReport(turns, turns, f"{before} page files became {after}; no turn was changed.")

    def stats(self) -> BackendStats:
        """Return sizes, and which heads address memory; the first call may calibrate the model (see the class)."""
        num_tokens = self._pages.total_tokens
        pages, index = self._pages.bytes_on_disk, self._index.bytes_in_memory
        return BackendStats(
            items=self._chunks.num_turns,
            tokens=num_tokens,
            bytes_on_disk=pages + index,
            bytes_in_memory=index + self._pages.bytes_cached,
            extras={
                "chunks": len(self._chunks),
                "page_bytes_per_token": round(pages / num_tokens) if num_tokens else 0,
                "index_bytes_per_token": round(index / num_tokens) if num_tokens else 0,
                "precision": self.config.precision,
                "query_heads": " ".join(
                    f"({head.layer},{head.head})@{head.offset}" for head in self._heads.query_heads
                ),
                "value_heads": " ".join(
                    f"({layer},{head})" for layer, head in self._heads.value_similarity.heads
                ),
                "model": self._resources.local_model.name,
            },
        )

    def picture_of_recall(self, query: str, *, limit: int = 5) -> Sequence[Picture]:
        """Return the hits, and which head attends to which chunk."""
        pictures = [*super().picture_of_recall(query, limit=limit)]
        evidence = self._search.evidence(query)
        if evidence is not None and evidence.chunks:
            pictures.append(attention_grid(evidence, self._heads, self._chunks))
        return pictures

    def save(self, directory: Path) -> None:
        """Write the state: pages (as hard links where possible), turns and index."""
        self._pages.link_into(directory / "pages")
        self._chunks.save(directory / "turns.jsonl")
        save_tensors(self._index.state(), directory / "index.safetensors")

    @classmethod
    def load(cls, directory: Path, config: RopeMapConfig, resources: Resources) -> Self:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: a file is missing or damaged, or the files do not belong together.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        pages = resources.workspace / "pages"
        pages.mkdir(mode=0o700)
        for file in sorted((directory / "pages").glob("*.safetensors")):
            link_or_copy(file, pages / file.name)
        backend = cls(config, resources)
        backend._chunks.load(directory / "turns.jsonl")
        backend._check_pages()
        try:
            backend._index.restore(load_file(directory / "index.safetensors"))
        except (FileNotFoundError, SafetensorError) as error:
            raise CheckpointError(f"its index cannot be read ({error})") from error
        except CheckpointError:  # of other heads: the calibration was lost and made again
            numbers = iter(backend._pages.chunk_numbers())
            while batch := [(number, backend._pages.get(number)) for number in islice(numbers, _BATCH)]:
                backend._index.insert(batch)
        return backend

    @cached_property
    def _heads(self) -> CalibratedHeads:
        """The model's heads that address memory, from the cache; the first use may calibrate them (see the class)."""
        resources = self._resources
        return calibration.load_or_calibrate(
            resources.local_model,
            self._encoder,
            self._tokenizer,
            self.config.context,
            resources.cache,
            resources.progress,
        )

    @cached_property
    def _index(self) -> AddressingIndex:
        """The keys and values of the calibrated heads; the first use may calibrate them."""
        return AddressingIndex(self._heads, self._encoder.theta, str(self._encoder.model.device))

    @cached_property
    def _search(self) -> ChunkSearch:
        """The search over all chunks; the first use may calibrate the heads."""
        return ChunkSearch(
            self._encoder,
            self._tokenizer,
            self._chunks,
            self._pages,
            self._index,
            rerank=self.config.rerank,
            abstain=self.config.abstain,
        )

    def _check_pages(self) -> None:
        """Raise CheckpointError unless the pages hold the chunks of the turns, token for token."""
        numbers = self._pages.chunk_numbers()
        if numbers != self._chunks.numbers():
            raise CheckpointError("its pages are not those of its turns")
        # Older states may hold tokens from when some control tokens in a text were not read as text.
        if any(self._pages.num_tokens(number) != len(self._chunks[number].ids) for number in numbers):
            raise CheckpointError("its pages have other tokens than its turns")

    def _store(self, numbers: Sequence[int]) -> None:
        """Read chunks with the model and store their keys and values."""
        context = self.config.context
        spans = [
            self._tokenizer.chunk_span(self._chunks[number], self._chunks.preceding(number, context))
            for number in numbers
        ]
        encoded: Iterator[tuple[int, KeysAndValues]]
        encoded = zip(numbers, self._encoder.encode(spans), strict=True)
        if len(numbers) > _BATCH:
            encoded = iter(
                self._resources.progress(encoded, total=len(numbers), label="Reading with the model")
            )
        while batch := list(islice(encoded, _BATCH)):
            self._pages.add(batch)
            self._index.insert(batch)

    def _injected(self, scores: dict[int, float]) -> InjectedKeysAndValues:
        """Load chunks, given with their scores, for injection."""
        numbers = sorted(scores)
        in_token_mode = self.config.mode == "token"
        return InjectedKeysAndValues(
            [self._pages.get(number) for number in numbers],
            self._encoder.theta,
            self._encoder.model.device,
            self._encoder.model.dtype,
            placement="fixed" if in_token_mode else self.config.placement,
            offset=self.config.offset,
            log_weights=None if in_token_mode else self._log_weights([scores[number] for number in numbers]),
            top_k=self.config.top_k if in_token_mode else None,
        )

    def _log_weights(self, scores: Sequence[float]) -> list[float]:
        """Return the logarithms of the chunks' weights in the softmax, 0 for the best chunk."""
        tuning, best = self._heads.tuning, max(scores)
        min_log_weight = log(tuning.min_chunk_weight)
        return [max(min_log_weight, tuning.score_sharpness * (score - best)) for score in scores]

    def _seqs_read_for(self, number: int) -> list[int]:
        """Return the seqs of the turns that a chunk's keys and values come from: its own and those of its context."""
        context = self._chunks.preceding(number, self.config.context)
        return [chunk.turn.seq for chunk in (self._chunks[number], *context)]

    def _hit(self, number: int, score: float) -> Hit:
        chunk = self._chunks[number]
        return Hit(
            (chunk.turn.seq,),
            score,
            text=chunk.text,
            why=f"Found by {len(self._heads.query_heads)} attention heads and the values of "
            f"{len(self._heads.value_similarity.heads)}; a chunk with a score 1 lower is e times less likely.",
        )
