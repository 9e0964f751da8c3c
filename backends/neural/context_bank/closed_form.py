"""The best linear autoencoder, in closed form: where training starts.

A linear variational autoencoder's optimum is probabilistic principal component analysis (Lucas et al. 2019, Don't Blame the
ELBO), so that its weights need no gradient. Each part of a latent has its own solution:

- key: ridge regression from a text's mean hidden states to a sentence embedder's vector of the text (distillation), in the
  principal components of what it predicts. It is linear, so the keys of the blocks of a text add up to the key of the text.
- token codes: whitened principal components of the embeddings. Tokens are compared by these, not by the reconstructed
  embedding: what the code leaves out would only add noise.
- states: principal components of the last hidden states of all tokens of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.neural.context_bank.autoencoder import LatentAutoencoder
from memagent.backends.neural.context_bank.config import LatentConfig

_RIDGE = 0.05
"""Of the regression to the embedder's vectors, times the mean variance of a component."""
_UNIFORM_SHARE = 0.5
"""Of the tokens that codes are fitted to: so many are drawn from the vocabulary, the others from the texts."""


@dataclass(frozen=True)
class TrainingTexts:
    """Texts as a language model read them.

    Attributes:
        ids: Tokens of all texts, ``[tokens]``.
        last: Their last hidden states, ``[tokens, hidden_size]``, of any float type.
        lengths: Tokens of each text.
        targets: The sentence embedder's vector of each text, ``[texts, dimension]``, unit vectors.
    """

    ids: Tensor
    last: Tensor
    lengths: list[int]
    targets: Tensor


def fit_closed_form(
    config: LatentConfig, texts: TrainingTexts, table: Tensor, generator: torch.Generator
) -> LatentAutoencoder:
    """Return the linear autoencoder of texts.

    Args:
        config: The sizes.
        texts: What it is fitted to.
        table: The model's embedding table, ``[vocab_size, hidden_size]``.
        generator: Draws tokens of the vocabulary.
    """
    autoencoder = LatentAutoencoder(config)
    with torch.no_grad():
        first, last = table[texts.ids].float(), texts.last.float()
        _set_scale(autoencoder, first, last)
        tokens = autoencoder.standardise(first, last)
        drawn = torch.randint(len(table), (int(len(tokens) * _UNIFORM_SHARE),), generator=generator)
        size = config.hidden_size
        vocabulary = (table[drawn].float() - autoencoder.mean[:size]) / autoencoder.scale[:size]
        key = _key_projection(tokens, texts, config.key_size)
        code = _whitened_components(torch.cat([tokens[:, :size], vocabulary]), config.token_size)
        state, block = _state_projection(autoencoder, tokens[:, size:], texts.lengths)
        _set_encoder(autoencoder, key, code, state, block)
        _set_decoder(autoencoder, tokens, texts.lengths)
    return autoencoder


def _set_scale(autoencoder: LatentAutoencoder, first: Tensor, last: Tensor) -> None:
    """Centre both halves; scale embeddings by one number, so that distances stay, and states by component."""
    autoencoder.mean.copy_(torch.cat([first.mean(0), last.mean(0)]))
    spread = first.std(0).square().mean().sqrt().expand(first.shape[1])
    autoencoder.scale.copy_(torch.cat([spread, last.std(0).clamp(min=1e-3)]))


def _key_projection(tokens: Tensor, texts: TrainingTexts, key_size: int) -> Tensor:
    """Return the projection of tokens to their part of a key, ``[key_size, 2 * hidden_size]``."""
    means = text_means(tokens, texts.lengths).double()
    centre = means.mean(0)
    inputs = means - centre
    targets = texts.targets.double() - texts.targets.double().mean(0)
    penalty = _RIDGE * inputs.square().mean() * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)
    predicted = inputs @ weights
    _, vectors = torch.linalg.eigh(predicted.T @ predicted)
    size = min(key_size, vectors.shape[1])
    projection = (weights @ vectors[:, -size:].flip(1)).T
    padded = torch.zeros(key_size, tokens.shape[1])
    padded[:size] = projection.float()
    return padded


def _whitened_components(rows: Tensor, size: int) -> Tensor:
    """Return the first principal components of ``rows`` ``[n, dim]``, scaled to unit variance: ``[size, dim]``."""
    values, vectors = torch.linalg.eigh((rows.T @ rows / len(rows)).double())
    components: Tensor = (vectors[:, -size:] / values[-size:].sqrt()).flip(1).T.float()
    return components


def _state_projection(
    autoencoder: LatentAutoencoder, states: Tensor, lengths: list[int]
) -> tuple[Tensor, Tensor]:
    """Return the projections of a state to features, and of a block's features to the state part of a latent."""
    config = autoencoder.config
    features = config.features - config.key_size - config.token_size
    values, vectors = torch.linalg.eigh((states.T @ states / len(states)).double())
    state = vectors[:, -features:].flip(1).T.float()
    scale = values[-features:].mean().sqrt().float()
    blocks = torch.cat(
        [autoencoder.blocks(part).flatten(1) for part in torch.split(states @ state.T, lengths)]
    )
    _, vectors = torch.linalg.eigh((blocks.T @ blocks / len(blocks)).double())
    return state, vectors[:, -config.state_size :].flip(1).T.float() / scale


def _set_encoder(
    autoencoder: LatentAutoencoder, key: Tensor, code: Tensor, state: Tensor, block: Tensor
) -> None:
    config = autoencoder.config
    ratio, size, keys, codes = config.ratio, config.hidden_size, config.key_size, config.token_size
    token_in = torch.zeros_like(autoencoder.token_in.weight)
    token_in[:keys] = key
    token_in[keys : keys + codes, :size] = code
    token_in[keys + codes :, size:] = state
    block_in = torch.zeros(size, ratio, config.features)
    block_in[:keys, :, :keys] = torch.eye(keys)[:, None] * _KEY_SCALE
    for place in range(ratio):
        rows = slice(keys + place * codes, keys + (place + 1) * codes)
        block_in[rows, place, keys : keys + codes] = torch.eye(codes)
    block_in[keys + ratio * codes :, :, keys + codes :] = block.view(config.state_size, ratio, -1)
    autoencoder.token_in.weight.copy_(token_in)
    autoencoder.block_in.weight.copy_(block_in.flatten(1))


def _set_decoder(autoencoder: LatentAutoencoder, tokens: Tensor, lengths: list[int]) -> None:
    """Set the decoder: features by least squares from the parts of a latent, both halves by least squares from features."""
    config = autoencoder.config
    ratio, keys, codes = config.ratio, config.key_size, config.token_size
    block_out = torch.zeros(ratio, config.features, config.hidden_size)
    encoder = autoencoder.block_in.weight.view(config.hidden_size, ratio, config.features)
    block = encoder[keys + ratio * codes :, :, keys + codes :]
    scale = block.flatten(1).square().sum(1)
    block_out[:, :keys, :keys] = torch.eye(keys) / (_KEY_SCALE * ratio)
    for place in range(ratio):
        columns = slice(keys + place * codes, keys + (place + 1) * codes)
        block_out[place, keys : keys + codes, columns] = torch.eye(codes)
    block_out[:, keys + codes :, keys + ratio * codes :] = (block / scale[:, None, None]).permute(1, 2, 0)
    autoencoder.block_out.weight.copy_(block_out.flatten(0, 1))
    autoencoder.block_out.bias.zero_()
    features, targets = [], []
    for text in torch.split(tokens, lengths):
        latents = autoencoder.encode_blocks(autoencoder.blocks(text))
        decoded = autoencoder.block_out(latents).view(-1, config.features)
        features.append(decoded[: len(text)])
        targets.append(text)
    inputs, outputs = torch.cat(features).double(), torch.cat(targets).double()
    gram = inputs.T @ inputs
    penalty = 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    autoencoder.token_out.weight.copy_(torch.linalg.solve(gram + penalty, inputs.T @ outputs).T.float())
    autoencoder.token_out.bias.zero_()


def text_means(tokens: Tensor, lengths: list[int]) -> Tensor:
    """Return the mean of each text's tokens ``[tokens, dim]``: ``[texts, dim]``."""
    return torch.stack([part.mean(0) for part in torch.split(tokens, lengths)])


_KEY_SCALE = 1.4
"""Brings the components of keys to about 1, as those of the other parts are, so that 8 bits suit all."""
