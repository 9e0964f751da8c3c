"""The append-only record of turns and forgettings: the only truth."""

from memagent.agent.journal.journal import Journal
from memagent.agent.journal.maintenance import UnpurgedError
from memagent.agent.journal.reading import JournalReader
from memagent.agent.journal.records import Extent, Forgetting, NewAttachment, NewTurn, Session, Unfinished

__all__ = [
    "Extent",
    "Forgetting",
    "Journal",
    "JournalReader",
    "NewAttachment",
    "NewTurn",
    "Session",
    "Unfinished",
    "UnpurgedError",
]
