"""The settings of a MeMo memory: sizes, stride, how keys are composed, and the seed of all vectors."""

from __future__ import annotations

from dataclasses import dataclass

COMPOSITIONS = ("bound", "computed", "retrieved")


@dataclass(frozen=True)
class MeMoSettings:
    """The settings of a `MeMoMemory` (MeMo, https://arxiv.org/abs/2502.12851, section 3.2).

    Attributes:
        vocab_size: Number of tokens; ids are 0 to ``vocab_size - 1``.
        dim: d, the size of keys and codes: a multiple of 8 and of ``heads``.
        heads: h, the blocks in a window, 2 or more.
        layers: l. Layer i reads windows of ``heads ** i`` tokens.
        stride: Layer i stores a window every ``stride ** i`` tokens; 1 or a multiple of it that divides ``heads``. The paper's
            text has ``heads``: windows that do not overlap. With 1 every token can be regenerated.
        composition: How the key of a window is made.
            "bound": the product of all its tokens' codes, each rotated by its place. Windows that differ in one token have
            unrelated keys. Values are bound to their keys too, so that the cross-talk of frequent tokens does not add up.
            "computed": the paper's concatenation of ``heads`` projected blocks, so that keys of windows that share blocks are
            similar; the codes of longer blocks are computed from their tokens.
            "retrieved": as "computed", but the codes of longer blocks are read from a matrix for each layer, as in the
            paper's retrieving phase.
        seed: Of all random vectors, 0 or more.

    Raises:
        ValueError: A number is out of range, or the composition is unknown.
    """

    vocab_size: int
    dim: int = 1024
    heads: int = 4
    layers: int = 2
    stride: int = 1
    composition: str = "bound"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, minimum in (("vocab_size", 1), ("heads", 2), ("layers", 1), ("seed", 0)):
            if getattr(self, name) < minimum:
                raise ValueError(
                    f"{name} is expected to be at least {minimum} rather than {getattr(self, name)}"
                )
        if self.dim < 8 or self.dim % 8 or self.dim % self.heads:
            raise ValueError(
                f"dim is expected to be a multiple of 8 and of heads, {self.heads}, rather than {self.dim}"
            )
        if self.stride < 1 or self.heads % self.stride:
            raise ValueError(
                f"stride is expected to divide heads, {self.heads}, rather than be {self.stride}"
            )
        if self.composition not in COMPOSITIONS:
            raise ValueError(
                f"composition is expected to be one of {', '.join(COMPOSITIONS)} rather than {self.composition!r}"
            )
        if self.window > self.dim:
            raise ValueError(
                f"heads ** layers, the longest window, is expected to be at most dim, {self.dim}, rather than {self.window}"
            )

    @property
    def window(self) -> int:
        """The number of tokens in the longest window, ``heads ** layers``."""
        return int(self.heads**self.layers)

    @property
    def noise(self) -> float:
        """The cross-talk of two unrelated keys, relative to that of two random keys.

        The h blocks of concatenated keys share a projection. The signs of a projection keep 2/pi of a small similarity, so
        that the squared inner product of two keys has the mean ``dim (1 + (2 / pi)^2 / h)``.
        """
        return 1.0 if self.composition == "bound" else 1 + 0.405 / self.heads
