"""The RoPE memory map: past turns as unrotated keys and values, addressed and attended by the model itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from memagent.backends.errors import CheckpointError, SettingError
from memagent.backends.protocol import Fingerprint, Injection, LocalModel, MemoryBackend, Resources
from memagent.backends.records import BackendStats, ConsolidationReport, Hit, Turn, WriteResult
from memagent.backends.rope_map import calibration
from memagent.backends.rope_map.addressing import Addressing
from memagent.backends.rope_map.chunk_table import Catalogue
from memagent.backends.rope_map.index import AddressIndex
from memagent.backends.rope_map.search import Search
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.chunks import Writer
from memagent.backends.shared.attention.encoder import KeysAndValues, Reader, Row
from memagent.backends.shared.attention.hooks import watched
from memagent.backends.shared.attention.injection import Attended, Placement
from memagent.backends.shared.attention.pages import PageStore
from memagent.backends.shared.attention.quantization import Precision
from memagent.backends.shared.tensors import save_tensors

_FORMAT = 2
_STEP = 64


@dataclass(frozen=True)
class RopeMapConfig:
    """Settings of the RoPE memory map.

    Attributes:
        abstain: return, and in mode span attend, only what seems relevant; switch off for retrieval benchmarks.
        mode: span (whole pieces, chosen by the addressing heads) or token (the paper's plain form: every head
            takes the best single tokens out of all of memory; slow, and lost among many memories).
        spans: most pieces attended to in one reply.
        reread: the question is read anew after each of so many of the best pieces, to see which makes it likeliest;
            0: addressing has the last word, in a third of the time.
        top_k: memory tokens each query of each head attends to in mode token.
        placement: where attended pieces stand: consecutive (in order, right before the prompt) or fixed (all at
            position 0, all queries at the offset).
        offset: distance of fixed memory, in tokens; the paper's is 4096.
        context: pieces of its session that a piece is read after.
        precision: how keys and values are stored: bf16, int8 or int4.
        cache_mb: most memory for pieces read back lately, in megabytes.
    """

    abstain: bool = True
    mode: Literal["span", "token"] = "span"
    spans: Annotated[int, Field(ge=1, le=64)] = 3
    reread: Annotated[int, Field(ge=0, le=256)] = 20
    top_k: Annotated[int, Field(ge=1, le=4096)] = 16
    placement: Placement = "consecutive"
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 4096
    context: Annotated[int, Field(ge=0, le=16)] = 2
    precision: Precision = "bf16"
    cache_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 256


class RopeMap(MemoryBackend):
    """Keeps the keys and values the model computed while it read, and lets its attention find and use them.

    Remembering costs reading a turn with the model, after the turns before it. Recalling runs a question through the
    model, searches a few heads' keys and values, and reads the question again after each of the best pieces. A reply attends
    to the pieces found, a few dozen tokens, in every layer. The map grows with what it reads: some 14 KB a token for
    a model of half a billion parameters.
    """

    name: ClassVar[str] = "rope_map"
    Config: ClassVar[type[RopeMapConfig]] = RopeMapConfig
    needs: ClassVar[frozenset[str]] = frozenset({"local_model"})
    exact_forget: ClassVar[bool] = True
    model_channel: ClassVar[bool] = True
    costly: ClassVar[bool] = True

    def __init__(self, config: RopeMapConfig, resources: Resources) -> None:
        self.config = config
        self._resources = resources
        self._reader = Reader(resources.local_model)
        self._writer = Writer(resources.local_model.tokenizer)
        self._catalogue = Catalogue(self._writer)
        self._pages = PageStore(resources.workspace / "pages", config.precision, config.cache_mb * 1_000_000)

    @classmethod
    def fingerprint(cls, config: RopeMapConfig, resources: Resources) -> Fingerprint:
        local = resources.local_model
        rotary.check(local.model)
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

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        numbers = self._catalogue.add(turns)
        self._store(numbers)
        stored = {self._catalogue[number].turn.seq for number in numbers}
        return [WriteResult(turn.seq, stored=turn.seq in stored) for turn in turns]

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        best: dict[int, Hit] = {}
        for number, score in self._search.find(query):
            seq = self._catalogue[number].turn.seq
            if len(best) == limit:
                break
            best.setdefault(seq, self._hit(number, score))
        return list(best.values())

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Injection]:
        """Let the model attend to what ``query`` brings to mind; in mode token, to whatever is stored.

        Raises:
            SettingError: the model is not the one that made the map.
        """
        if model.digest != self._resources.local_model.digest:
            raise SettingError(
                f"The map holds keys of {self._resources.local_model.name}; {model.name} cannot attend to them. "
                "Use that model, or read the journal with this one, by "
                f"`memagent backends rebuild {self.name} --model {model.name}` (and --user, --set as here)."
            )
        excluded = set(self._catalogue.numbers(exclude))
        if self.config.mode == "token":
            found = [(number, 0.0) for number in self._pages.pieces() if number not in excluded]
        else:
            addressed = (
                (number, score) for number, score in self._search.find(query) if number not in excluded
            )
            found = list(islice(addressed, self.config.spans))
        if not found:
            yield Injection()
            return
        with watched(model.model, self._memory(dict(found))):
            shown = [] if self.config.mode == "token" else found
            yield Injection(
                [self._hit(number, score) for number, score in shown],
                frozenset(
                    piece.turn.seq
                    for number, _ in found
                    for piece in (
                        self._catalogue[number],
                        *self._catalogue.before(number, self.config.context),
                    )
                ),
            )

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Remove the turns' pages and index entries, and read anew what was read after them."""
        after = {
            follower
            for number in self._catalogue.numbers(seqs)
            for follower in self._catalogue.after(number, self.config.context)
        }
        gone = self._catalogue.remove(seqs)
        after -= {number for number, _ in gone}
        again = [(number, len(self._catalogue[number].ids)) for number in sorted(after)]
        self._pages.forget([number for number, _ in (*gone, *again)])
        self._index.delete([*gone, *again])
        self._store([number for number, _ in again])
        return True

    def consolidate(self) -> ConsolidationReport:
        """Join small page files; what can be recalled stays the same."""
        before, after = self._pages.compact()
        turns = self._catalogue.turns
        return ConsolidationReport(turns, turns, f"{before} page files became {after}; no turn was touched.")

    def stats(self) -> BackendStats:
        tokens = self._pages.tokens
        pages, index = self._pages.bytes_on_disk, self._index.bytes_in_memory
        return BackendStats(
            items=self._catalogue.turns,
            tokens=tokens,
            bytes_on_disk=pages + index,
            bytes_in_memory=index + self._pages.bytes_cached,
            extras={
                "pieces": len(self._catalogue),
                "page_bytes_per_token": round(pages / tokens) if tokens else 0,
                "index_bytes_per_token": round(index / tokens) if tokens else 0,
                "precision": self.config.precision,
                "addressing_heads": " ".join(
                    f"({head.layer},{head.head})@{head.offset}" for head in self._addressing.heads
                ),
                "value_heads": " ".join(
                    f"({layer},{head})" for layer, head in self._addressing.likeness.heads
                ),
                "model": self._resources.local_model.name,
            },
        )

    def save(self, directory: Path) -> None:
        self._pages.share(directory / "pages")
        self._catalogue.save(directory / "turns.jsonl")
        save_tensors(self._index.state(), directory / "index.safetensors")

    @classmethod
    def load(cls, directory: Path, config: RopeMapConfig, resources: Resources) -> Self:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from memagent.backends.shared.attention.pages import link

        pages = resources.workspace / "pages"
        pages.mkdir(mode=0o700)
        for file in sorted((directory / "pages").glob("*.safetensors")):
            link(file, pages / file.name)
        backend = cls(config, resources)
        backend._catalogue.load(directory / "turns.jsonl")
        if backend._pages.pieces() != backend._catalogue.numbers():
            raise CheckpointError("its pages are not those of its turns")
        # Of states that were stored when some control tokens in a text were still read as such.
        if any(
            backend._pages.length(number) != len(backend._catalogue[number].ids)
            for number in backend._pages.pieces()
        ):
            raise CheckpointError("its pages have other tokens than its turns")
        try:
            backend._index.restore(load_file(directory / "index.safetensors"))
        except (FileNotFoundError, SafetensorError) as error:
            raise CheckpointError(f"its index cannot be read ({error})") from error
        except CheckpointError:  # of other heads: the calibration was lost and learnt again
            numbers = iter(backend._pages.pieces())
            while step := [(number, backend._pages.get(number)) for number in islice(numbers, _STEP)]:
                backend._index.insert(step)
        return backend

    @cached_property
    def _addressing(self) -> Addressing:
        resources = self._resources
        return calibration.calibrated(
            resources.local_model,
            self._reader,
            self._writer,
            self.config.context,
            resources.cache,
            resources.progress,
        )

    @cached_property
    def _index(self) -> AddressIndex:
        device = str(self._reader.model.device)
        return AddressIndex(self._addressing, self._reader.theta, device)

    @cached_property
    def _search(self) -> Search:
        return Search(
            self._reader,
            self._writer,
            self._catalogue,
            self._pages,
            self._index,
            reread=self.config.reread,
            abstain=self.config.abstain,
        )

    def _store(self, numbers: Sequence[int]) -> None:
        """Read pieces with the model, and keep what its layers made of them."""
        rows = [
            Row(
                self._writer.before(self._catalogue.before(number, self.config.context)),
                self._catalogue[number].ids,
            )
            for number in numbers
        ]
        read: Iterator[tuple[int, KeysAndValues]] = zip(numbers, self._reader.read(rows), strict=True)
        if len(numbers) > _STEP:
            read = iter(self._resources.progress(read, total=len(numbers), label="Reading with the model"))
        while step := list(islice(read, _STEP)):
            self._pages.add(step)
            self._index.insert(step)

    def _memory(self, chosen: dict[int, float]) -> Attended:
        """Load pieces, given with their scores."""
        token = self.config.mode == "token"
        best = max(chosen.values())
        return Attended(
            [self._pages.get(number) for number in sorted(chosen)],
            self._reader.theta,
            self._reader.model.device,
            self._reader.model.dtype,
            placement="fixed" if token else self.config.placement,
            offset=self.config.offset,
            priors=None if token else [chosen[number] - best for number in sorted(chosen)],
            top_k=self.config.top_k if token else None,
        )

    def _hit(self, number: int, score: float) -> Hit:
        piece = self._catalogue[number]
        return Hit(
            (piece.turn.seq,),
            score,
            text=piece.text,
            why=f"Found by {len(self._addressing.heads)} attention heads and the values of "
            f"{len(self._addressing.likeness.heads)}; a piece with a score 1 lower is e times less likely.",
        )
