"""A user's journal with one backend over it: opened, followed, stored, forgotten, shared by processes."""

from memagent.agent.memory.forgetting import Forgotten, Remaining
from memagent.agent.memory.memory import Attached, Memory, open_journal
from memagent.agent.memory.opening import Notify

__all__ = ["Attached", "Forgotten", "Memory", "Notify", "Remaining", "open_journal"]
