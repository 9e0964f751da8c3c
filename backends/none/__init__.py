"""No memory at all: the control in every comparison."""

from memagent.backends.none.backend import NoMemory

__all__ = ["NoMemory"]
