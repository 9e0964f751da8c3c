"""MeMo as the paper describes it (https://arxiv.org/abs/2502.12851, section 3.2): Gaussian vectors, sums of floats.

It is the reference of `MeMoMemory` and the subject of the paper's experiments. What it stores depends on the order of texts, and
forgetting subtracts from the last matrix only. Where the printed equations disagree with the paper's text and examples, this
module follows the latter:

- The distiller, printed as ``D = 1 - round(I C x)``, is 1 - f for a stored pattern that occurs f times in an update: it erases
  a pattern that occurs twice and inverts one that occurs three times. It is clamped to 0 and 1, as the text describes it.
- ``Sel_h`` selects every h-th token at each layer. The example selects at layer i every ``h ** i``-th.
- Retrieving is printed with ``I^T C``. I has a key in each row, so that the product is ``I C``.
"""

from __future__ import annotations

import torch
from torch import Tensor

CODES = ("retrieved", "projected", "product")


class PaperMeMo:
    """Layered correlation matrix memories of float32.

    Args:
        vocab_size: Number of tokens.
        dim: d, a multiple of ``heads``.
        heads: h.
        layers: l.
        stride: Layer i stores a window every ``stride ** i`` tokens. The paper's text has h; 1 or h.
        codes: Where the codes of blocks come from when a text is read. "retrieved": from C^(i), as in the equations.
            "projected": from their tokens, by Prj, and there is no C^(i). "product": from their tokens, as the product of their
            vectors, which knows no order; the published multi-layer figures are nearest to it.
        seed: Of all random vectors.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        heads: int,
        layers: int,
        *,
        stride: int = 1,
        codes: str = "retrieved",
        seed: int = 0,
    ) -> None:
        if stride not in (1, heads):
            raise ValueError(f"stride is expected to be 1 or heads, {heads}, rather than {stride}")
        if codes not in CODES:
            raise ValueError(f"codes are expected to be one of {', '.join(CODES)} rather than {codes!r}")
        self.heads, self.layers, self.stride = heads, layers, stride
        self._product = codes == "product"
        generator = torch.Generator().manual_seed(seed)

        def normal(rows: int, columns: int, variance: float) -> Tensor:
            return torch.randn(rows, columns, generator=generator).mul_(variance**0.5)

        # Codes have norm 1, a block in a key 1 / h, a key 1.
        self.embedding = normal(vocab_size, dim, 1 / dim)
        self.block_projections = [normal(dim, dim // heads, 1 / dim) for _ in range(layers)]
        self.sequence_projections = [normal(heads * dim, dim, 1 / (heads * dim)) for _ in range(layers - 1)]
        self.intermediate = [torch.zeros(dim, dim) for _ in range(layers - 1 if codes == "retrieved" else 0)]
        self.last = torch.zeros(dim, dim)

    def memorise(self, text: Tensor) -> None:
        """Store a text, as one update.

        Args:
            text: ``[length]`` int64.
        """
        for layer, (keys, blocks, ends) in enumerate(self._windows(text)):
            if layer < len(self.intermediate):
                values = self._block_codes(layer, blocks)
                self.intermediate[layer] += keys.T @ (self._penalties(layer, keys, values)[:, None] * values)
            stored = ends < len(text)
            self.last += keys[stored].T @ self.embedding[text[ends[stored]]]

    def forget(self, text: Tensor) -> None:
        """Subtract a text from the last matrix; C^(i) keep it.

        Args:
            text: ``[length]`` int64.
        """
        for keys, _, ends in self._windows(text):
            stored = ends < len(text)
            self.last -= keys[stored].T @ self.embedding[text[ends[stored]]]

    def retrieve(self, contexts: Tensor) -> Tensor:
        """Return the sum of what the layers emit after contexts.

        Args:
            contexts: ``[n, heads ** layer]`` int64, the layer from 1 to ``layers``: the last tokens of texts.

        Returns:
            ``[n, dim]``: its product with a token's embedding is the weight of that token.
        """
        sums = torch.zeros(len(contexts), self.last.shape[0])
        codes = self.embedding[contexts]
        for layer in range(self.layers):
            if codes.shape[1] < self.heads:
                break
            blocks = codes.reshape(len(contexts), -1, self.heads, codes.shape[2])
            keys = (blocks @ self.block_projections[layer]).flatten(2)
            sums += keys[:, -1]
            if layer < len(self.intermediate):
                codes = keys @ self.intermediate[layer]
            elif layer < self.layers - 1:
                codes = self._block_codes(layer, blocks)
        return sums @ self.last

    def _windows(self, text: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return for each layer the keys of its windows ``[n, dim]``, their blocks ``[n, heads, dim]`` and their ends ``[n]``."""
        result = []
        codes, ends = self.embedding[text], torch.arange(1, len(text) + 1)
        for layer in range(self.layers):
            # Rows of codes that are one block apart.
            gap = self.heads**layer if self.stride == 1 else 1
            rows = torch.arange(0, len(codes) - (self.heads - 1) * gap, self.stride)
            blocks = codes[rows[:, None] + gap * torch.arange(self.heads)]
            keys = (blocks @ self.block_projections[layer]).flatten(1)
            ends = ends[rows + (self.heads - 1) * gap]
            result.append((keys, blocks, ends))
            if layer < self.layers - 1:
                codes = self._block_codes(layer, blocks)
        return result

    def _block_codes(self, layer: int, blocks: Tensor) -> Tensor:
        """Return the codes ``[..., dim]``, of norm 1, of windows of blocks ``[..., heads, dim]``."""
        if self._product:
            # Vectors have norm 1, so their elements would vanish.
            return torch.nn.functional.normalize((blocks * blocks.shape[-1] ** 0.5).prod(-2), dim=-1)
        return blocks.flatten(-2) @ self.sequence_projections[layer]

    def _penalties(self, layer: int, keys: Tensor, values: Tensor) -> Tensor:
        """Return the diagonal of Phi = D F: 1 / f for a pattern that occurs f times and is not stored yet, otherwise 0."""
        total = values.sum(0)
        distiller = (1 - (keys @ self.intermediate[layer] @ total).round()).clamp(0, 1)
        frequency = (values @ total).round().clamp_min(1)
        return distiller / frequency
