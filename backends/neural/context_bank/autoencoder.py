"""The latent autoencoder: blocks of tokens, each with its first and last hidden state, to latent vectors and back.

Source: the memory-bank paper, section 6.2, equation 13: z = Encoder([E_first; E_last]), trained to reconstruct both halves.
The first hidden states are the rows of the embedding table, so a reconstructed one names a token: that whose code is nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from memagent.backends.neural.context_bank.config import LatentConfig

_TABLE_ROWS = 16_384
_SEARCHED_ROWS = 2048
"""Of the vocabulary at once: so few that the distances stay in the cache."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What a decoder makes of latents.

    Attributes:
        first: embeddings, standardised: ``[latents, ratio, hidden_size]``.
        last: last hidden states, standardised: ``[latents, ratio, hidden_size]``.
        codes: codes of the tokens: ``[latents, ratio, token_size]``.
    """

    first: Tensor
    last: Tensor
    codes: Tensor


class LatentAutoencoder(nn.Module):
    """Encodes a token's two hidden states as features, and blocks of ``ratio`` tokens as latents; decodes the same way back.

    The posterior is Gaussian with one variance for each component, which is what a linear decoder's optimum has
    (Lucas et al. 2019, Don't Blame the ELBO). Encoding takes its mean, so it is deterministic.

    Attributes:
        config: The sizes.
        mean, scale: Of both halves, by which they are standardised, ``[2 * hidden_size]``.

    Args:
        config: The sizes.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        size, features = config.hidden_size, config.features
        self.register_buffer("mean", torch.zeros(2 * size))
        self.register_buffer("scale", torch.ones(2 * size))
        self.token_in = nn.Linear(2 * size, features, bias=False)
        self.block_in = nn.Linear(config.ratio * features, size, bias=False)
        self.log_variance = nn.Parameter(torch.full((size,), -6.0))
        self.block_out = nn.Linear(size, config.ratio * features)
        self.token_out = nn.Linear(features, 2 * size)

    def encode(self, first: Tensor, last: Tensor) -> Tensor:
        """Encode a text.

        Args:
            first: Rows of the embedding table, ``[tokens, hidden_size]``.
            last: Last hidden states, ``[tokens, hidden_size]``.

        Returns:
            Posterior means, ``[ceil(tokens / ratio), hidden_size]``. Places after the last token count as the mean state.
        """
        return self.encode_blocks(self.blocks(self.standardise(first, last)))

    def standardise(self, first: Tensor, last: Tensor) -> Tensor:
        """Return both halves, centred and scaled: ``[tokens, 2 * hidden_size]``."""
        joined = torch.cat([first, last], dim=-1).float()
        return (joined - self.mean) / self.scale

    def blocks(self, tokens: Tensor) -> Tensor:
        """Return tokens in blocks, the last one padded with zeros: ``[blocks, ratio, 2 * hidden_size]``."""
        ratio = self.config.ratio
        padded = functional.pad(tokens, (0, 0, 0, -len(tokens) % ratio))
        return padded.view(-1, ratio, tokens.shape[-1])

    def encode_blocks(self, blocks: Tensor) -> Tensor:
        """Return the posterior means of standardised blocks, ``[blocks, hidden_size]``."""
        latents: Tensor = self.block_in(self.token_in(blocks).flatten(1))
        return latents

    def decode(self, latents: Tensor) -> Reconstruction:
        """Reconstruct the tokens of latents ``[latents, hidden_size]``."""
        size, config = self.config.hidden_size, self.config
        features = self.block_out(latents).view(-1, config.ratio, config.features)
        halves = self.token_out(features)
        return Reconstruction(halves[..., :size], halves[..., size:], self.codes_of(halves[..., :size]))

    def codes_of(self, first: Tensor) -> Tensor:
        """Return the codes of standardised embeddings ``[..., hidden_size]``: ``[..., token_size]``."""
        key, token, size = self.config.key_size, self.config.token_size, self.config.hidden_size
        codes: Tensor = first @ self.token_in.weight[key : key + token, :size].T
        return codes

    def table_codes(self, table: Tensor) -> Tensor:
        """Return the codes of an embedding table ``[vocab_size, hidden_size]``: ``[vocab_size, token_size]``."""
        size = self.config.hidden_size
        rows = (
            self.codes_of((part.float() - self.mean[:size]) / self.scale[:size])
            for part in torch.split(table, _TABLE_ROWS)
        )
        return torch.cat(list(rows))


def nearest_tokens(codes: Tensor, table_codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the token whose code is nearest to each code.

    Args:
        codes: ``[tokens, token_size]``.
        table_codes: Of the vocabulary, ``[vocab_size, token_size]``.

    Returns:
        Ids ``[tokens]``, and the squared distances ``[tokens]``, 0 for a code that was kept exactly.
    """
    nearest = torch.zeros(len(codes), dtype=torch.long)
    smallest = torch.full((len(codes),), torch.inf)
    for start in range(0, len(table_codes), _SEARCHED_ROWS):
        part = table_codes[start : start + _SEARCHED_ROWS]
        shares, rows = (part.square().sum(dim=1) - 2 * codes @ part.T).min(dim=1)
        nearest = torch.where(shares < smallest, rows + start, nearest)
        smallest = torch.minimum(shares, smallest)
    return nearest, (smallest + codes.square().sum(dim=1)).clamp(min=0)
