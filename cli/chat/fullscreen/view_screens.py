"""Opening the screen of a view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memagent.cli.chat.fullscreen.sessions_screen import SessionsScreen
from memagent.cli.chat.views import SessionList, View

if TYPE_CHECKING:
    from memagent.cli.chat.fullscreen.conversation_pane import ConversationPane


def open_view(view: View, pane: ConversationPane) -> None:
    """Open the screen of a view, unless the chat is not open yet or another screen is.

    Args:
        view: what to show.
        pane: the conversation, which runs what the person chooses.
    """
    if pane.chat is None:
        pane.app.notify("The memory is being opened; try again in a moment.", timeout=3)
    elif len(pane.app.screen_stack) == 1 and isinstance(view, SessionList):
        pane.app.push_screen(SessionsScreen(pane, pane.chat))
