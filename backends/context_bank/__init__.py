"""The context bank: latent vectors of turns that cluster, fade and merge."""

from memagent.backends.context_bank.backend import ContextBankMemory
from memagent.backends.context_bank.config import ContextBankConfig

__all__ = ["ContextBankConfig", "ContextBankMemory"]
