"""A user's journal with one backend over it: opened, followed, stored, forgotten, shared by processes."""

from memagent.agent.memory.forgetting import Forgotten, Remaining
from memagent.agent.memory.memory import Memory, Notify, open_journal

__all__ = ["Forgotten", "Memory", "Notify", "Remaining", "open_journal"]
