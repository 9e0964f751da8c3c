"""How much of a text its latents keep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from memagent.backends.neural.context_bank.autoencoder import LatentAutoencoder, nearest_tokens


@dataclass(frozen=True, slots=True)
class Quality:
    """How well texts are reconstructed from their latents in 8 bit.

    Attributes:
        token_accuracy: share of the tokens whose reconstructed embedding is nearest to their own, compared by codes; 0 to 1.
        cosine_first: mean cosine of the reconstructed embedding and the embedding, centred; 1 is exact.
        cosine_last: the same of the last hidden states, standardised.
        tokens: number of tokens that were measured.
    """

    token_accuracy: float
    cosine_first: float
    cosine_last: float
    tokens: int


def rounded(latents: Tensor) -> Tensor:
    """Return latents ``[n, size]`` as 8 bits with one scale each hold them."""
    scale = latents.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return (latents / scale).round() * scale


def measure(
    autoencoder: LatentAutoencoder, ids: Tensor, last: Tensor, lengths: list[int], table: Tensor
) -> Quality:
    """Measure the reconstruction of texts that the autoencoder was not trained on.

    Args:
        autoencoder: What is measured.
        ids: Tokens of all texts, ``[tokens]``.
        last: Their last hidden states, ``[tokens, hidden_size]``.
        lengths: Tokens of each text.
        table: The embedding table, ``[vocab_size, hidden_size]``.
    """
    size = autoencoder.config.hidden_size
    table_codes = autoencoder.table_codes(table)
    exact, first, last_cosines = [], [], []
    for own, states in zip(torch.split(ids, lengths), torch.split(last, lengths), strict=True):
        tokens = autoencoder.standardise(table[own].float(), states.float())
        latents = rounded(autoencoder.encode_blocks(autoencoder.blocks(tokens)))
        decoded = autoencoder.decode(latents)
        codes, halves = (
            part.flatten(0, 1)[: len(own)]
            for part in (decoded.codes, torch.cat([decoded.first, decoded.last], dim=-1))
        )
        exact.append(nearest_tokens(codes, table_codes)[0] == own)
        first.append(functional.cosine_similarity(halves[:, :size], tokens[:, :size]))
        last_cosines.append(functional.cosine_similarity(halves[:, size:], tokens[:, size:]))
    return Quality(
        torch.cat(exact).float().mean().item(),
        torch.cat(first).mean().item(),
        torch.cat(last_cosines).mean().item(),
        len(ids),
    )
