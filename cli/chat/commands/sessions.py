"""Slash commands on sessions: list, continue, begin, delete, search, export."""

from __future__ import annotations

import os
from pathlib import Path

from memagent.backends.errors import InputError, StorageError
from memagent.cli.chat.chat import Chat, Interface, new_session
from memagent.cli.chat.commands.command import Command
from memagent.cli.chat.session_deletion import SessionDeletion
from memagent.cli.chat.views import SessionList
from memagent.cli.rendering.phrases import quantity, say_remaining

_MAX_MATCHES = 50


def _sessions(chat: Chat, interface: Interface, argument: str) -> None:
    from memagent.cli.rendering.text import print_sessions

    if not interface.show(SessionList()):
        print_sessions(chat.journal.sessions(), interface.console)


def resume(chat: Chat, interface: Interface, argument: str) -> None:
    """Continue the session of that name.

    Raises:
        NotFoundError: there is none.
    """
    chat.journal.session(argument)
    chat.use_session(argument)
    interface.console.print(f"Session {argument} continues.")


def begin(chat: Chat, interface: Interface, argument: str) -> None:
    """Begin a session of that name, or of a new one if it is empty."""
    chat.use_session(argument or new_session())
    interface.console.print(f"Session {chat.conversation.session} begins.")


def delete(chat: Chat, interface: Interface, argument: str) -> None:
    """Forget the session of that name for good, if the person agrees.

    Raises:
        NotFoundError: there is none.
    """
    deletion = SessionDeletion.of(chat.journal, argument)
    if not interface.ask(deletion.question):
        return
    sentence, forgotten = deletion.apply(chat.journal, chat.memory.forget)
    chat.conversation.last_recalled = None
    interface.console.print(sentence)
    say_remaining(forgotten.remaining, interface.frontend.notify)


def _search(chat: Chat, interface: Interface, argument: str) -> None:
    from itertools import islice

    from memagent.cli.rendering.text import print_turns

    if not argument:
        raise InputError("/search takes the text to look for, as in: /search Biscuit")
    turns = list(islice(chat.journal.matching(argument), _MAX_MATCHES + 1))
    print_turns(turns[:_MAX_MATCHES], interface.console)
    if len(turns) > _MAX_MATCHES:
        interface.console.print(f"and more; these are the first {_MAX_MATCHES}")
    elif not turns:
        interface.console.print("No turn contains that text.")


def _export(chat: Chat, interface: Interface, argument: str) -> None:
    from memagent.agent.journal.export import export

    if not argument:
        raise InputError("/export takes a file, as in: /export chat.jsonl")
    file = Path(argument).expanduser()
    try:
        with open(
            os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8", newline="\n"
        ) as out:
            exported = export(chat.journal, out, session=chat.conversation.session)
    except FileExistsError as error:
        raise InputError(f"{file} exists already; name another file.") from error
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}.") from error
    interface.console.print(f"Wrote {quantity(exported.turns, 'turn')} of this session to {file}.")


def _names(chat: Chat) -> list[str]:
    return chat.journal.session_names()


COMMANDS = (
    Command("/sessions", "", "List your sessions.", _sessions),
    Command("/resume", "SESSION", "Continue another session.", resume, _names),
    Command("/new", "[SESSION]", "Begin a session.", begin),
    Command("/delete", "SESSION", "Forget a session for good.", delete, _names),
    Command("/search", "TEXT", "List the turns of all sessions that contain a text.", _search),
    Command("/export", "FILE", "Write this session as JSON lines.", _export),
)
