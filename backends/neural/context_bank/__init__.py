"""A variational autoencoder of a language model's hidden states: many tokens in few latent vectors (context bank)."""

from memagent.backends.neural.context_bank.autoencoder import LatentAutoencoder
from memagent.backends.neural.context_bank.config import LatentConfig

__all__ = ["LatentAutoencoder", "LatentConfig"]
