"""The append-only record of turns and forgettings: the only truth."""

from memagent.agent.journal.journal import Journal
from memagent.agent.journal.records import Forgetting, NewTurn, Session

__all__ = ["Forgetting", "Journal", "NewTurn", "Session"]
