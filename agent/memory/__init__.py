"""A user's memory: backends that follow the journal, with stored states, forgetting, and locks between processes."""

from memagent.agent.memory.channel import AttachedMemory
from memagent.agent.memory.forgetting import Forgotten, Remaining
from memagent.agent.memory.memory import Memory, WriteResults
from memagent.agent.memory.opening import Notify, open_journal

__all__ = ["AttachedMemory", "Forgotten", "Memory", "Notify", "Remaining", "WriteResults", "open_journal"]
