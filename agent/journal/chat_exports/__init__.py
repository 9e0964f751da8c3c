"""Exports of other programs: chats of ChatGPT and Claude, messages of OpenAI and LangChain, memories of mem0.

``convert`` writes such a file as an export of memagent, which ``export.load`` adds to a journal; ``recognize`` says what a file is.
"""

from __future__ import annotations

from memagent.agent.journal.chat_exports.conversion import Options, Summary, convert
from memagent.agent.journal.chat_exports.formats import FORMATS, Format, recognize

__all__ = ["FORMATS", "Format", "Options", "Summary", "convert", "recognize"]
