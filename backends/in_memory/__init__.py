"""The smallest real backend: a dictionary and word overlap. Shipped for tests and as a first example."""

from memagent.backends.in_memory.backend import InMemory, InMemoryConfig

__all__ = ["InMemory", "InMemoryConfig"]
