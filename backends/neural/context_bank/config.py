"""The sizes of the latent autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

_KEY_SHARE = 3 / 14
"""Of a latent's components, those of the key: 192 of 896. Not varied."""
_TOKEN_SHARE, _MOST_OF_ROOM = 0.55, 0.75
"""Of the other components, those of the token codes: as a rule, and where codes would be shorter than ``_TOKEN_SIZES`` allow."""
_TOKEN_SIZES = (5, 48)


@dataclass(frozen=True)
class LatentConfig:
    """The sizes of a `LatentAutoencoder`. A latent is [key; code of each token; code of all states].

    Attributes:
        hidden_size: d, the width of the model and of a latent.
        ratio: L / L_c, tokens in a latent.
        key_size: Components by which latents are compared with a question. Their sum over a text is its key.
        token_size: Components for each token, by which it is found in the embedding table.

    Raises:
        ValueError: The parts do not fit into a latent.
    """

    hidden_size: int
    ratio: int
    key_size: int
    token_size: int

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.ratio, self.key_size, self.token_size, self.state_size) < 1:
            raise ValueError(
                f"A latent of {self.hidden_size} components has no room for a key of {self.key_size}, {self.ratio} token codes "
                f"of {self.token_size} and a code of the states. Lower key_size or token_size."
            )

    @property
    def state_size(self) -> int:
        """Components of a latent that its tokens' last hidden states share."""
        return self.hidden_size - self.key_size - self.ratio * self.token_size

    @property
    def features(self) -> int:
        """Features of each token from which a latent is computed."""
        per_token = min(self.hidden_size, 4 * -(-self.state_size // self.ratio))
        return self.key_size + self.token_size + per_token

    @classmethod
    def of(cls, hidden_size: int, ratio: int) -> LatentConfig:
        """Return the sizes for a model's width and a ratio."""
        key_size = round(hidden_size * _KEY_SHARE)
        smallest, largest = _TOKEN_SIZES
        room = (hidden_size - key_size) / ratio
        token_size = max(int(_TOKEN_SHARE * room), min(smallest, int(_MOST_OF_ROOM * room)))
        return cls(hidden_size, ratio, key_size, min(largest, token_size))
