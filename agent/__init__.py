"""Conversations with long-term memory: journal, memory, models, and the engine between them."""

from memagent.agent.engine.agent import Agent, Reply
from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.memory import Memory

__all__ = ["Agent", "Conversation", "Home", "Journal", "Memory", "Reply", "Settings"]
