"""Titans as a memory of conversations: networks learn every turn once, point at what they still know, and recite it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from memagent.backends.errors import CheckpointError
from memagent.backends.protocol import Fingerprint, Injection, LocalModel, MemoryBackend, Resources
from memagent.backends.records import BackendStats, Hit, Turn, WriteResult
from memagent.backends.shared.attention.hooks import watched
from memagent.backends.shared.tensors import save_tensors
from memagent.backends.shared.text import letters
from memagent.backends.titans.associative_memory import Recital
from memagent.backends.titans.chunks import Span, cut, load_spans, save_spans, spoken
from memagent.backends.titans.context import in_context
from memagent.backends.titans.memory import TestTimeMemory
from memagent.backends.titans.write_statistics import Written

_FORMAT = 2
_MANY = 64
# Cosine of the embeddings of "I live in Lisbon." and "I moved to Porto last week.": 0.6.
_SAME = 0.55
_POINTED = "The memory's answer points here"
_RECITED = "The memory recited it"


@dataclass(frozen=True)
class TitansConfig:
    """Settings of the Titans memory.

    Attributes:
        abstain: return only what seems relevant; switch off for retrieval benchmarks.
        threshold: least score of a recollection.
        depth: layers of the memory's MLPs.
        width: of their hidden layers.
        theta: size of a step of surprise. A turn has to be known at once, so it should not be small.
        eta: share of the past surprise that goes on, as momentum; above 0.8 the memory swings.
        alpha: share of the memory that is forgotten at each span; 0: only what is written over.
        follow: weight of what follows what, beside what was said.
        copies: of an embedding in a key of the memory that recites: its size, of 0.4 MB each.
        match: least match of what is recited, when it abstains.
        recite: most spans recited for one reply.
    """

    abstain: bool = True
    threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.3
    depth: Annotated[int, Field(ge=1, le=4)] = 2
    width: Annotated[int, Field(ge=1, le=16384)] = 1536
    theta: Annotated[float, Field(gt=0, le=0.5)] = 0.3
    eta: Annotated[float, Field(ge=0, lt=1)] = 0.3
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.0
    follow: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    copies: Annotated[int, Field(ge=1, le=4096)] = 86
    match: Annotated[float, Field(ge=0, le=1)] = 0.33
    recite: Annotated[int, Field(ge=1, le=16)] = 3


class Titans(MemoryBackend):
    """Learns each turn while it reads, by surprise; recalls the turns its network points at, or recites what they said.

    The networks stay the same size whatever they read. Beside them stand the turns they can point at, with an embedding
    each. What a network has written over or forgotten is not recalled, though the turn is there. Remembering costs an
    embedding and one step of learning a span for each network; recalling an embedding and a product with all spans'
    embeddings; reciting a beam search, which grows with the words that texts begin with. Forgetting a turn teaches fresh
    networks all the others, from their embeddings.
    """

    name: ClassVar[str] = "titans"
    Config: ClassVar[type[TitansConfig]] = TitansConfig
    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    exact_forget: ClassVar[bool] = True
    model_channel: ClassVar[bool] = True
    regenerates: ClassVar[bool] = True

    def __init__(self, config: TitansConfig, resources: Resources) -> None:
        self.config = config
        self._resources = resources
        self._spans: list[Span] = []
        self._embeddings: list[Tensor] = []
        self._known: set[int] = set()
        self._last: dict[str, Tensor] = {}

    @classmethod
    def fingerprint(cls, config: TitansConfig, resources: Resources) -> Fingerprint:
        return {
            "format": _FORMAT,
            "embedder": resources.embedder.name,
            "embedder_digest": resources.embedder.digest,
            "memory": f"{config.depth} {config.width} {config.theta} {config.eta} {config.alpha} {config.copies}",
            "seed": resources.seed,
        }

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        first = len(self._spans)
        new = [(turn, text) for turn in turns if turn.seq not in self._known for text in cut(turn.text)]
        if new:
            embedded = self._resources.embedder.embed([spoken(turn, text) for turn, text in new])
            self._learn(
                (turn, text, vector)
                for (turn, text), vector in zip(new, torch.from_numpy(embedded), strict=True)
            )
        return [_write_result(turn.seq, self._spans[first:]) for turn in turns]

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        if not self._spans:
            return []
        asked = letters(query)  # the same question, asked before, is no answer
        said, followed = self._memory.read(self._cue(query))
        scores = torch.stack(self._embeddings) @ (said + self.config.follow * followed)
        best: dict[int, Hit] = {}
        for place in scores.argsort(descending=True, stable=True).tolist():
            score, span = float(scores[place]), self._spans[place]
            if len(best) == limit or (self.config.abstain and score < self.config.threshold):
                break
            if letters(span.text) != asked:
                best.setdefault(span.turn.seq, _hit(span, score, _POINTED))
        return list(best.values())

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Injection]:
        """Recite what ``query`` brings to mind, and let the model attend to it before its prompt.

        This is Titans' memory as context (section 4.1): what the memory answers stands before the context, in every layer's
        attention, as if it had just been read. It comes out of the weights alone, word by word; the spans only tell of
        which turns it is, and what is of none is not attended to. Of two about the same, the later holds if it matches better.

        Raises:
            SettingError: the model's attention is of a kind not known here.
        """
        found = self._recited(query, exclude)
        if not found:
            yield Injection()
            return
        with watched(model.model, in_context(model, [(spans[-1], match) for spans, match in found])):
            yield Injection(
                [_hit(spans[-1], match, _RECITED) for spans, match in found],
                frozenset(span.turn.seq for spans, _ in found for span in spans),
            )

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Teach a fresh network everything but these turns: as if it had never read them."""
        stay = [
            (span.turn, span.text, vector)
            for span, vector in zip(self._spans, self._embeddings, strict=True)
            if span.turn.seq not in seqs
        ]
        if len(stay) < len(self._spans):
            self.__dict__.pop("_memory", None)
            self.__dict__.pop("_recital", None)
            self._spans, self._embeddings, self._known, self._last = [], [], set(), {}
            told = self._resources.progress(stay, total=len(stay), label="Teaching a fresh memory the rest")
            self._learn(told if len(stay) > _MANY else stay)
        return True

    def stats(self) -> BackendStats:
        size = self._memory.bytes + self._recital.bytes
        vectors = sum(vector.nbytes for vector in self._embeddings)
        text = sum(len(span.text.encode()) for span in self._spans)
        last = self._spans[-1].written if self._spans else Written(0.0, 0.0)
        mean = sum(span.written.surprise for span in self._spans) / max(1, len(self._spans))
        return BackendStats(
            items=len(self._known),
            tokens=0,
            bytes_on_disk=size + vectors + text,
            bytes_in_memory=size + vectors + text,
            extras={
                "memory_bytes": size,
                "words": len(self._recital.vocabulary),
                "spans": len(self._spans),
                "mean_surprise": round(mean, 3),
                "last_surprise": round(last.surprise, 3),
                "last_strength": round(last.strength, 3),
                "embedder": self._resources.embedder.name,
            },
        )

    def save(self, directory: Path) -> None:
        tensors = {f"memory.{name}": tensor for name, tensor in self._memory.tensors().items()}
        if self._embeddings:
            tensors["embeddings"] = torch.stack(self._embeddings)
        save_tensors(tensors, directory / "memory.safetensors")
        save_tensors(self._recital.tensors(), directory / "recital.safetensors")
        words = {"vocabulary": self._recital.vocabulary, "openers": self._recital.openers}
        (directory / "words.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
        save_spans(self._spans, directory / "spans.jsonl")

    @classmethod
    def load(cls, directory: Path, config: TitansConfig, resources: Resources) -> Self:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        backend = cls(config, resources)
        try:
            tensors = load_file(directory / "memory.safetensors")
            vectors = tensors.pop("embeddings", None)
            backend._memory.restore({name.removeprefix("memory."): one for name, one in tensors.items()})
            backend._recital.restore(
                load_file(directory / "recital.safetensors"),
                **json.loads((directory / "words.json").read_text(encoding="utf-8")),
            )
            backend._spans = list(load_spans(directory / "spans.jsonl"))
        except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"its files cannot be read ({error})") from error
        backend._embeddings = [] if vectors is None else list(vectors)
        if len(backend._embeddings) != len(backend._spans):
            raise CheckpointError("its embeddings are not those of its spans")
        for span, vector in zip(backend._spans, backend._embeddings, strict=True):
            backend._known.add(span.turn.seq)
            backend._last[span.turn.session] = vector
        return backend

    @cached_property
    def _memory(self) -> TestTimeMemory:
        config = self.config
        return TestTimeMemory(
            self._resources.embedder.dimension,
            config.depth,
            config.width,
            config.theta,
            config.eta,
            config.alpha,
            self._resources.seed,
        )

    @cached_property
    def _recital(self) -> Recital:
        return Recital(
            self._resources.embedder.dimension, self.config.copies, self.config.alpha, self._resources.seed
        )

    def _cue(self, query: str) -> Tensor:
        return torch.from_numpy(self._resources.embedder.embed([query])[0])

    def _recited(self, query: str, exclude: Collection[int]) -> list[tuple[list[Span], float]]:
        """Return what the memory recites: each text as the spans that say it, latest last, and its match."""
        if not self._spans:
            return []
        cue, asked = self._cue(query), letters(query)
        # What it reminds the first memory of is nearer to what was said than the question is.
        address = normalize(cue + normalize(self._memory.read(cue)[0], dim=0), dim=0)
        by_text: dict[str, list[int]] = {}
        for place, span in enumerate(self._spans):
            by_text.setdefault(span.text.strip(), []).append(place)
        least = self.config.match if self.config.abstain else 0.0
        found: list[tuple[list[Span], float]] = []
        latest: list[int] = []
        for text, match in self._recital.recite(address):
            spans = [self._spans[place] for place in by_text.get(text, ())]
            seen = any(span.turn.seq in exclude for span in spans)
            if match < least or not spans or seen or letters(text) == asked:
                continue
            if not any(self._replaces(place, by_text[text][-1]) for place in latest):
                found.append((spans, match))
            latest.append(by_text[text][-1])
        return found[: self.config.recite]

    def _replaces(self, place: int, other: int) -> bool:
        """Whether a span that matches better was said after another and is about the same: then it holds."""
        return place > other and float(self._embeddings[place] @ self._embeddings[other]) > _SAME

    def _learn(self, spans: Iterable[tuple[Turn, str, Tensor]]) -> None:
        for turn, text, vector in spans:
            written = self._memory.write(vector, self._last.get(turn.session))
            self._recital.write(vector, text)
            self._spans.append(Span(turn, text, written))
            self._embeddings.append(vector)
            self._known.add(turn.seq)
            self._last[turn.session] = vector


def _hit(span: Span, score: float, how: str) -> Hit:
    surprise, strength = span.written
    return Hit(
        (span.turn.seq,),
        score,
        text=span.text,
        regenerated=how == _RECITED,
        why=(
            f"{how} ({score:.2f}); when it was read its surprise was {surprise:.2f}, "
            f"and it was written with strength {strength:.2f}."
        ),
    )


def _write_result(seq: int, spans: Sequence[Span]) -> WriteResult:
    """Sum up what became of a turn's spans: their mean surprise and strength."""
    own = [span.written for span in spans if span.turn.seq == seq]
    if not own:
        return WriteResult(seq, stored=False)
    surprise, strength = (sum(values) / len(own) for values in zip(*own, strict=True))
    return WriteResult(seq, surprise=surprise, strength=strength)
