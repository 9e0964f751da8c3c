"""What the screen shows of the session in use, read from the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memagent.cli.chat.fullscreen.background import Pinned, Reloaded

if TYPE_CHECKING:
    from memagent.backends.records import Turn
    from memagent.cli.chat.chat import Chat

_SHOWN_TURNS = 200
_HISTORY = 500


def recent_turns(chat: Chat) -> list[Turn]:
    """Return the latest turns of the session in use, oldest first."""
    turns = chat.journal.recent(_SHOWN_TURNS, chat.conversation.session)
    return [turn for turn in turns if turn.role in ("user", "assistant")]


def reloaded(chat: Chat, last_forgetting: int | None = None) -> Reloaded:
    """Return the message that makes the screen show the session in use.

    Args:
        chat: an open chat.
        last_forgetting: the number of the last forgetting that the screen knows; None: it knows all.
    """
    turns = recent_turns(chat)
    sources = chat.journal.get({seq for turn in turns for seq in turn.recalled})
    forgettings = [] if last_forgetting is None else chat.journal.forgettings(after=last_forgetting)
    return Reloaded(
        turns,
        chat.conversation.session,
        {turn.seq: turn for turn in sources},
        tuple(sorted(forgetting.seq for forgetting in forgettings)),
        past_messages(chat) if forgettings else (),
    )


def past_messages(chat: Chat) -> list[str]:
    """Return the user's messages among the latest turns of all sessions, oldest first."""
    after = max(0, chat.journal.last()[0] - _HISTORY)
    return [turn.text for turn in chat.journal.turns(after=after) if turn.role == "user"]


def pinned(chat: Chat) -> Pinned:
    """Return the message that says what is pinned."""
    return Pinned(frozenset(turn.seq for turn in chat.journal.pinned()))
