"""Running the full-screen chat from its first screen to the last stored turn."""

from __future__ import annotations

import os
from functools import partial

from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.cli.chat.chat import Chat, ChatOptions
from memagent.cli.chat.first_run import Choice, is_first_run, opening
from memagent.cli.chat.fullscreen.app import ChatApp
from memagent.cli.rendering.output import say, write

_SECONDS_TO_STOP = 2.0
"""How long a download has to end what it started, such as a process of pip."""


def run(options: ChatOptions) -> None:
    """Run the chat on the full screen until the person leaves.

    Args:
        options: what the command line says. Where nobody has named a model and none is here, the person chooses first.

    Raises:
        MemagentError: the chat could not be opened.
    """
    app = FirstRunApp(options) if is_first_run(options) else ChatApp(partial(Chat.open, options))
    app.run()
    job = app.pane.give_up()
    if job is not None and job.name == "open":  # a download, or a model being loaded: both can be left
        job.join(_SECONDS_TO_STOP)
        os._exit(0)
    if job is not None:
        say(f"Waiting for the {job.name} to end ...")
        job.join()
    if app.pane.chat is not None:
        app.pane.chat.close()
        write(f"Continue with: {app.pane.chat.next_command}")
    if app.failure is not None:
        raise app.failure


class FirstRunApp(ChatApp):
    """The chat, which first lets a person choose a model and a memory.

    Args:
        options: what the command line says.
    """

    def __init__(self, options: ChatOptions) -> None:
        super().__init__(partial(Chat.open, options))
        self._options = options

    def begin(self) -> None:
        """Show what there is to choose; fetch and open what is chosen, or leave."""
        from memagent.cli.chat.fullscreen.welcome_screen import WelcomeScreen
        from memagent.cli.completion import backends

        def open_choice(choice: Choice | None) -> None:
            if choice is None:
                self.leave()
            else:
                self.open(opening(self._options, choice))

        self.push_screen(WelcomeScreen(DEFAULT_MODEL, self._options.backend, backends("")), open_choice)
