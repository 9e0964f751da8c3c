"""Showing a view: on a screen of its own, or in the conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memagent.cli.chat.fullscreen.comparison_view import ComparisonView
from memagent.cli.chat.fullscreen.conversation_view import ConversationView
from memagent.cli.chat.fullscreen.memories_screen import MemoriesScreen
from memagent.cli.chat.fullscreen.sessions_screen import SessionsScreen
from memagent.cli.chat.views import Comparison, SessionList, View

if TYPE_CHECKING:
    from memagent.cli.chat.fullscreen.conversation_pane import ConversationPane


def open_view(view: View, pane: ConversationPane) -> None:
    """Show a view, unless it needs a screen and another one is open.

    Args:
        view: what to show.
        pane: the conversation, which runs what the person chooses.
    """
    if pane.chat is None:
        pane.app.notify("The memory is being opened; try again in a moment.", timeout=3)
    elif isinstance(view, Comparison):
        pane.query_one(ConversationView).mount(ComparisonView(view))
    elif len(pane.app.screen_stack) == 1:
        kind = SessionsScreen if isinstance(view, SessionList) else MemoriesScreen
        pane.app.push_screen(kind(pane, pane.chat))
