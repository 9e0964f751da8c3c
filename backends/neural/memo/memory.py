"""A memory of correlation matrices that stores texts, regenerates them token by token, and forgets them exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from memagent.backends.neural.memo.capacity import capacity, predicted_accuracy
from memagent.backends.neural.memo.composition import Positions, compose
from memagent.backends.neural.memo.counts import Hasher, WindowCounts
from memagent.backends.neural.memo.reading import Reading
from memagent.backends.neural.memo.rows import Rows, rows_of
from memagent.backends.neural.memo.settings import MeMoSettings
from memagent.backends.neural.memo.vectors import Vectors
from memagent.backends.neural.memo.windows import (
    Windows,
    chosen,
    hashes,
    lay_out,
    lay_out_places,
    replaced,
    token_hash,
    within,
)
from memagent.kernels.cmm import accumulate, retrieve

Tokens = Sequence[int]

# Tokens whose keys are made and stored at a time: 16 MB of keys for each layer at 2,048 dimensions. 256 to 8,192 tried on one
# CPU core: from 1,024 on the time for each token is the same.
_TOKENS = 2048


class MeMoMemory(nn.Module):
    """Layered correlation matrix memories (MeMo, https://arxiv.org/abs/2502.12851, section 3.2) that forget exactly.

    Every window of ``heads ** layer`` tokens is stored with the token after it as an outer product of signs in one int32
    matrix, once, however often it occurs: a count for each salted hash of a window decides when it enters and when it leaves.
    The state is therefore a function of the multiset of stored texts. It does not depend on their order, and forgetting a text
    restores every byte of a memory that never read it.

    A text may have a code, a vector of signs to which all its keys are bound by multiplication. Such a text is regenerated
    from its code alone, and does not disturb the windows of others. Texts with a code, and all texts with bound keys, begin
    with windows of places before the text, so that even their first token is stored.

    Attributes:
        settings: Sizes, stride, composition and seed.
        last: C^(last), ``[dim, dim]`` int32: from keys to next tokens.
        intermediate: C^(i) of layers 1 to l - 1, ``[layers - 1, dim, dim]`` int32, from keys to codes of windows. Empty unless these
            are retrieved.
        totals: int64, the stored pairs of each layer, then the stored codes of each layer, then the stored tokens.
        hashes, counts: As of the last `pack`: the hashes of all windows, ascending, int64, and their counts, int32.
    """

    last: Tensor
    intermediate: Tensor
    totals: Tensor
    hashes: Tensor
    counts: Tensor

    def __init__(self, settings: MeMoSettings, stored_windows: int = 0) -> None:
        """Make an empty memory, or one whose tensors have the shapes of a stored state.

        Args:
            settings: Sizes, stride, composition and seed.
            stored_windows: Number of hashes in the state that will be loaded; 0 for an empty memory.
        """
        super().__init__()
        self.settings = settings
        matrices = settings.layers - 1 if settings.composition == "retrieved" else 0
        shape = (settings.dim, settings.dim)
        self.register_buffer("last", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("intermediate", torch.zeros(matrices, *shape, dtype=torch.int32))
        self.register_buffer("totals", torch.zeros(2 * settings.layers, dtype=torch.int64))
        self.register_buffer("hashes", torch.zeros(stored_windows, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(stored_windows, dtype=torch.int32))
        self._vectors = Vectors(settings)
        self._hasher = Hasher(settings.seed)
        self._window_counts: WindowCounts | None = None
        self._tokens: set[int] | None = None if stored_windows else set()
        self._reading: Reading | None = None

    def memorise(self, texts: Sequence[Tokens], codes: Tensor | None = None) -> None:
        """Store texts. Each is stored as often as it is given, and must be forgotten as often.

        Args:
            texts: Token ids. Without codes and with concatenated keys, a text of up to ``heads`` tokens stores nothing.
            codes: ``[texts, dim]`` int8, +1 and -1: a code for each text. None: texts have no codes.

        Raises:
            ValueError: A token is not in the vocabulary, or the codes are not vectors of signs. Nothing is stored.
            OverflowError: The matrix would have 2^31 pairs or more. Nothing is stored.
        """
        self._change(texts, codes, subtract=False)

    def forget(self, texts: Sequence[Tokens], codes: Tensor | None = None) -> None:
        """Remove texts: the state becomes, byte for byte, that of a memory which never read them.

        Args:
            texts: Token ids, exactly as they were stored.
            codes: The codes they were stored with.

        Raises:
            ValueError: A text is not stored, or less often than it is given, or see `memorise`. Nothing is removed.
        """
        self._change(texts, codes, subtract=True)

    def edit(self, text: Tokens, old: Tokens, new: Tokens, code: Tensor | None = None) -> list[int]:
        """Replace every occurrence of a part of a stored text: forget the text, and memorise the new one.

        Args:
            text: A stored text.
            old: Token ids that occur in it.
            new: What replaces them; may be empty.
            code: ``[dim]``, the text's code. None if it has none.

        Returns:
            The new text.

        Raises:
            ValueError: ``old`` does not occur in the text, or the text is not stored. Nothing is changed.
        """
        edited = replaced(text, old, new)
        codes = None if code is None else code[None]
        self._checked_codes([edited], codes)
        self.forget([text], codes)
        self.memorise([edited], codes)
        return edited

    @property
    def pairs(self) -> int:
        """The number of pairs of a window and its next token in the matrix, of all layers."""
        return int(self.totals[: self.settings.layers].sum())

    @property
    def tokens(self) -> list[int]:
        """The tokens that a stored window is followed by, ascending: those that can be regenerated."""
        if self._tokens is None:
            counted = self._counted()
            vocabulary = range(self.settings.vocab_size)
            self._tokens = {token for token in vocabulary if token_hash(self._hasher, token) in counted}
        return sorted(self._tokens)

    @property
    def load(self) -> float:
        """The share of the capacity that is in use: at 1, one of ten stored tokens is expected to be wrong.

        Each query sums the keys of all layers, so that l pairs cost as much as one.
        """
        num_tokens = max(int(self.totals[-1]), 2)
        return self._effective_pairs / capacity(self.settings.dim, self.settings.dim, num_tokens)

    @property
    def predicted_accuracy(self) -> float:
        """The expected share of stored tokens that are regenerated, where no window has two next tokens.

        See `capacity.predicted_accuracy`.
        """
        num_tokens = max(int(self.totals[-1]), 1)
        return predicted_accuracy(self._effective_pairs, self.settings.dim, self.settings.dim, num_tokens)

    @property
    def deviation(self) -> float:
        """The standard deviation of a token's weight by cross-talk, for a query of one layer; see `capacity`."""
        return float((self.pairs * self.settings.noise) ** 0.5 / self.settings.dim)

    @property
    def _effective_pairs(self) -> float:
        return self.pairs * self.settings.noise / self.settings.layers

    def token_codes(self, ids: Tokens) -> Tensor:
        """Return the codes of tokens, ``[len(ids), dim]`` int8."""
        return self._vectors.codes(ids)

    def fills(self, codes: Tensor | None) -> bool:
        """Return whether texts begin with windows of places before them.

        Concatenated keys without a code would share these places, so that all beginnings were similar.
        """
        return self.settings.composition == "bound" or codes is not None

    def query_keys(
        self, contexts: Sequence[Tokens], last: Sequence[int], codes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the keys of the last places of contexts, for the token after each.

        Args:
            contexts: Token ids of texts, from their beginning or from ``window`` tokens before the first place on.
            last: For each context, how many places: 1 is the place after its last token, 2 also the place of its last token.
            codes: ``[contexts, dim]`` int8, the code of each context's text, or None.

        Returns:
            Keys ``[layers, places, dim]``, float32, 0 where a layer has no complete window; and whether it has one,
            ``[layers, places]``.

        Raises:
            ValueError: A token is not in the vocabulary, or codes are not vectors of signs.
        """
        self._checked_codes(contexts, codes)
        places = lay_out_places(self.settings, contexts, last, filled=self.fills(codes))
        read = self._read_code if self.settings.composition == "retrieved" else None
        ends = [places.ends] * self.settings.layers
        composed = compose(self.settings, self._vectors, places.ids, ends, read)
        keys = torch.stack([layer.to(torch.float32) for layer in composed.keys])
        keys *= places.available[..., None]
        if codes is not None:
            keys *= codes.cpu().repeat_interleave(torch.tensor(last), 0)
        return keys, places.available

    def _read_code(self, layer: int, keys: Tensor) -> Tensor:
        """Return the codes of windows from C^(i), each times its weight, and not longer than a code.

        Without this limit the cross-talk of a full matrix outweighs every code, and higher layers drown lower ones.
        """
        matrix = self.intermediate[layer - 1]
        codes = retrieve(keys.to(matrix.device, torch.float32), matrix).cpu() / self.settings.dim
        lengths: Tensor = codes.square().mean(1, keepdim=True).sqrt()
        return codes / lengths.clamp_min(1.0)

    @property
    def reading(self) -> Reading:
        """What decoding needs: a float copy of the matrix and the codes of all stored tokens. Made after each change."""
        if self._reading is None or not self._reading.is_of(self.last):
            tokens = self.tokens
            codes = self._vectors.codes(tokens).to(self.last.device)
            bound = self.settings.composition == "bound"
            self._reading = Reading(self.last, torch.tensor(tokens), codes, bound=bound)
        return self._reading

    def pack(self) -> None:
        """Write the counts to the buffers ``hashes`` and ``counts``, before these are stored."""
        hashes, counts = self._counted().tensors()
        self.hashes, self.counts = hashes.to(self.last.device), counts.to(self.last.device)

    def _counted(self) -> WindowCounts:
        if self._window_counts is None:
            self._window_counts = WindowCounts(self.hashes, self.counts)
        return self._window_counts

    def _checked_codes(self, texts: Sequence[Tokens], codes: Tensor | None) -> list[bytes]:
        """Return the bytes of each text's code. Raise ValueError for tokens or codes that are not valid."""
        for text in texts:
            if len(text) and not 0 <= min(text) <= max(text) < self.settings.vocab_size:
                raise ValueError(
                    f"token ids are expected to be 0 to {self.settings.vocab_size - 1} rather than "
                    f"{min(text)} to {max(text)}"
                )
        if codes is None:
            return [b""] * len(texts)
        expected = [len(texts), self.settings.dim]
        if list(codes.shape) != expected or codes.dtype != torch.int8:
            raise ValueError(
                f"codes are expected to be int8 {expected} rather than {codes.dtype} {list(codes.shape)}"
            )
        if not bool((codes.abs() == 1).all()):
            raise ValueError("codes are expected to consist of +1 and -1")
        return [code.numpy().tobytes() for code in codes.cpu()]

    def _change(self, texts: Sequence[Tokens], codes: Tensor | None, *, subtract: bool) -> None:
        prefixes = self._checked_codes(texts, codes)
        windows = lay_out(self.settings, texts, filled=self.fills(codes))
        counted = self._counted()
        window_hashes = hashes(self.settings, windows, prefixes, self._hasher)
        try:
            places = counted.leaving(window_hashes) if subtract else counted.entering(window_hashes)
        except KeyError as error:
            raise ValueError(
                "texts are expected to be stored, with these codes and as often as they are to be forgotten, "
                "but some windows of them are not; nothing was forgotten"
            ) from error
        changed = chosen(windows.groups, places)
        num_pairs = sum(map(len, changed[: self.settings.layers]))
        # No element exceeds the number of pairs, so that the matrix cannot overflow.
        if not subtract and self.pairs + num_pairs > torch.iinfo(torch.int32).max:
            raise OverflowError(
                f"at most 2^31 - 1 pairs are expected in a matrix; it holds {self.pairs} and {num_pairs} more were "
                "given. Nothing was stored; use another memory for them"
            )
        self._store(windows, changed, codes, subtract=subtract)
        counted.add(window_hashes, subtract=subtract)

    def _store(
        self, windows: Windows, changed: list[Positions], codes: Tensor | None, *, subtract: bool
    ) -> None:
        """Add or subtract the outer products of windows, and count them."""
        layers, matrices = self.settings.layers, len(self.intermediate)
        pairs, code_windows = changed[:layers], changed[layers : layers + matrices]
        tokens = set(windows.ids[changed[-1]].tolist())
        for first in range(0, len(windows.ids), _TOKENS):
            last = first + _TOKENS
            parts = [[within(ends, first, last) for ends in group] for group in (pairs, code_windows)]
            if any(map(len, [*parts[0], *parts[1]])):
                rows = rows_of(self.settings, self._vectors, windows, parts[0], parts[1], codes)
                self._accumulate(rows, subtract=subtract)
        numbers = [*map(len, pairs), *map(len, code_windows), *[0] * (layers - 1 - matrices), len(tokens)]
        self.totals += torch.tensor(numbers, device=self.totals.device) * (-1 if subtract else 1)
        if self._tokens is not None:
            self._tokens = self._tokens - tokens if subtract else self._tokens | tokens
        self._reading = None

    def _accumulate(self, rows: Rows, *, subtract: bool) -> None:
        device = self.last.device
        accumulate(self.last, rows.keys.to(device), rows.values.to(device), subtract=subtract)
        for matrix, (keys, codes) in zip(self.intermediate, rows.codes, strict=True):
            accumulate(matrix, keys.to(device), codes.to(device), subtract=subtract)
