"""The conversation with its field for messages: sends messages, runs commands, shows what they report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static, TextArea

from memagent.backends.errors import MemagentError
from memagent.cli.chat import commands
from memagent.cli.chat.chat import Chat, Interface
from memagent.cli.chat.fullscreen.background import (
    CommandConsole,
    Finished,
    Job,
    Opened,
    Output,
    Progressed,
    Question,
    Reloaded,
    TurnEvent,
    ViewRequested,
    post,
    screen_frontend,
)
from memagent.cli.chat.fullscreen.conversation_view import ConversationView, ModelReply, Notice, UserMessage
from memagent.cli.chat.fullscreen.dialogs import Confirmation
from memagent.cli.chat.fullscreen.message_input import MessageInput
from memagent.cli.chat.fullscreen.progress_line import ProgressLine
from memagent.cli.chat.fullscreen.search_field import SearchField
from memagent.cli.chat.fullscreen.session_contents import past_messages, pinned, reloaded
from memagent.cli.rendering.frontend import Frontend
from memagent.cli.rendering.output import one_line
from memagent.cli.rendering.phrases import quantity

if TYPE_CHECKING:
    from memagent.agent.engine.events import Event
    from memagent.cli.chat.views import View

OpenChat = Callable[[Frontend], Chat]


class ConversationPane(Vertical):
    """The conversation, the progress of long work, and the field for messages.

    One job runs at a time, in a thread: opening the chat, a reply, a command. The pane shows what it reports, and its
    messages bubble to the app.

    Attributes:
        chat: None until it is open.
        state: what is going on, for the status line; empty: nothing.
    """

    class Failed(Message):
        """The program cannot go on.

        Attributes:
            error: the reason; None: the person leaves.
        """

        def __init__(self, error: BaseException | None) -> None:
            super().__init__()
            self.error = error

    def __init__(self) -> None:
        super().__init__()
        self.chat: Chat | None = None
        self.state = ""
        self.frontend = screen_frontend(self)
        self._view = ConversationView()
        self._input = MessageInput()
        self._input.complete = lambda line: commands.completed(line, self.chat)
        self._completions = Static(markup=False, id="completions")
        self._progress = ProgressLine()
        self._job: Job | None = None
        self._reply: ModelReply | None = None
        self._footer = ""
        self._sent = ""
        self._unsent: list[str] = []
        self._questions: list[Question] = []
        self._shown = (
            "",
            0,
        )  # session and last forgetting that the screen shows; jobs change it, one at a time

    def compose(self) -> ComposeResult:
        """Yield the parts from top to bottom."""
        yield self._view
        yield self._progress
        yield self._completions
        yield SearchField(self._view)
        yield self._input

    # jobs

    def open(self, open_chat: OpenChat) -> None:
        """Open the chat in the background.

        Args:
            open_chat: opens the memory and loads the model.
        """
        self.state = "opening the memory, loading the model"
        self.start("open", partial(self._open, open_chat))

    def start(self, name: str, work: Callable[[], None]) -> bool:
        """Start a job unless another one is running; return whether it was started.

        Args:
            name: what it is.
            work: is run in a thread.
        """
        if self.is_busy:
            self.app.notify("Something is in progress; Esc stops a reply.", severity="warning", timeout=3)
            return False
        self._job = Job(self, name, work)
        return True

    @property
    def is_busy(self) -> bool:
        """Whether a job is in progress, or its end is not shown yet."""
        return self._job is not None

    @property
    def _is_opening(self) -> bool:
        return self._job is not None and self._job.name == "open"

    def stop(self) -> bool:
        """Stop a reply in progress, also one of a comparison; return whether there is one."""
        if self.chat is None or self._job is None:
            return False
        self.chat.stop()
        return self._job.name == "reply" or self.chat.is_comparing

    def give_up(self) -> Job | None:
        """Stop the reply, answer open questions with no, and return the job that still runs, if any."""
        self.stop()
        for question in self._questions:
            if not question.answer.done():
                question.answer.set_result(False)
        return self._job if self._job is not None and self._job.is_running else None

    def _open(self, open_chat: OpenChat) -> None:
        chat = open_chat(self.frontend)
        self._shown = chat.conversation.session, chat.journal.last()[1]
        post(self, Opened(chat, past_messages(chat)))
        post(self, reloaded(chat))
        post(self, pinned(chat))

    def _answer(self, text: str, chat: Chat) -> None:
        for event in chat.conversation.send(text):
            post(self, TurnEvent(event))
        self._follow_journal(chat)

    def _run_command(self, command: Callable[[Chat, Interface], None], chat: Chat, width: int) -> None:
        output = CommandConsole(self, width)
        try:
            command(chat, Interface(output.console, output.ask, self.frontend, self._request))
        finally:
            with suppress(MemagentError):  # the command's own error is shown
                self._follow_journal(chat)
                post(self, pinned(chat))
            output.show()

    def _follow_journal(self, chat: Chat) -> None:
        """Show another session, and take away what was forgotten, here or by another process."""
        last_forgetting = self._shown[1]
        now = chat.conversation.session, chat.journal.last()[1]
        if now == self._shown:
            return
        self._shown = now
        if now[1] > last_forgetting:
            chat.conversation.last_recalled = None
        post(self, reloaded(chat, last_forgetting))

    def _request(self, view: View) -> bool:
        return post(self, ViewRequested(view))

    # what the person does

    @on(MessageInput.Sent)
    async def _take(self, event: MessageInput.Sent) -> None:
        await self.send(event.text)

    @on(TextArea.Changed)
    def _show_completions(self) -> None:
        lines = commands.completion_lines(self._input.text, self.chat)
        self._completions.set_class(bool(lines), "-shown")
        self._completions.update(Text("\n".join(map(one_line, lines))))

    async def send(self, text: str) -> None:
        """Send a message or run a command: now, or once the chat is open; not during a reply or another command.

        Args:
            text: what the person wrote.
        """
        if self.chat is None or self._is_opening:
            self._unsent.append(text)
            await self._view.add(Notice("This is sent as soon as the model is loaded."))
            return
        is_command = text.startswith("/")
        if is_command:
            is_started = self.run_command(text)
        else:
            is_started = self.start("reply", partial(self._answer, text, self.chat))
        if not is_started:
            self._input.give_back(text)
            return
        self._sent = text
        await self._view.add(UserMessage(text))
        if not is_command:
            self._reply = ModelReply()
            self.state = "recalling"
            await self._view.add(self._reply)
        self._view.anchor()

    def run_command(self, line: str) -> bool:
        """Run a command that was chosen and not written; return whether it was started."""
        return self.start_command(partial(commands.run, line))

    def start_command(self, command: Callable[[Chat, Interface], None]) -> bool:
        """Run the work of a command in a thread unless another job is running; return whether it was started."""
        if self.chat is None:
            return False
        width = max(20, (self._view.scrollable_content_region.width or self.size.width) - 2)
        return self.start("command", partial(self._run_command, command, self.chat, width))

    # what jobs report

    @on(Opened)
    def _take_chat(self, message: Opened) -> None:
        self.chat = message.chat
        self.state = ""
        self._input.use_history(message.history)

    @on(Reloaded)
    async def _show_turns(self, message: Reloaded) -> None:
        await self._view.show_turns(message.turns)
        if message.forgotten:
            self._input.use_history(message.history)
        if not message.turns and self.chat is not None:
            await self._view.add(Notice(_welcome(self.chat)))

    @on(TurnEvent)
    async def _show_event(self, message: TurnEvent) -> None:
        from memagent.agent.engine.events import Recalled, Token, TurnEnded

        event: Event = message.event
        if isinstance(event, Recalled):
            self.state = "reading the prompt"
            count = len(event.in_view)
            self._footer = f"{quantity(count, 'recollection')} in view; F2" if count else ""
        elif isinstance(event, Token) and self._reply is not None:
            self.state = "replying"
            await self._reply.add(event.text)
        elif isinstance(event, TurnEnded):
            await self._end_reply("stopped" if event.stopped else self._footer)

    @on(Output)
    async def _show_output(self, message: Output) -> None:
        await self._view.add(Notice(message.text, is_error=message.is_error))

    @on(Progressed)
    def _show_progress(self, message: Progressed) -> None:
        self._progress.show(message)

    @on(Question)
    def _ask(self, question: Question) -> None:
        self._questions.append(question)

        def answer(is_yes: bool | None) -> None:
            self._questions.remove(question)
            if not question.answer.done():
                question.answer.set_result(bool(is_yes))

        self.app.push_screen(Confirmation(question.text, question.details), answer)

    @on(Finished)
    async def _finish(self, message: Finished) -> None:
        self._job = None
        self.state = ""
        self._progress.clear()
        error = message.error
        await self._end_reply("")
        if isinstance(error, commands.Quit):
            self.post_message(self.Failed(None))
        elif error is not None and (self.chat is None or not isinstance(error, MemagentError)):
            self.post_message(self.Failed(error))
        elif error is not None:
            await self._view.add(Notice(f"Error: {error}", is_error=True))
            messages = [] if self._sent.startswith("/") else [self._sent]
            self._give_back([*messages, *self._unsent])
            self._unsent = []
        self._sent = ""
        if self._unsent and self.chat is not None:
            await self.send(self._unsent.pop(0))

    def _give_back(self, messages: Sequence[str]) -> None:
        if text := "\n".join(filter(None, messages)):
            self._input.give_back(text)

    async def _end_reply(self, footer: str) -> None:
        if self._reply is not None:
            await (self._reply.end(footer) if self._reply.text else self._reply.remove())
            self._reply = None


def _welcome(chat: Chat) -> str:
    return (
        f"{chat.conversation.model.name} with {chat.memory.name} memory, session {chat.conversation.session}. What you "
        "say here is recalled in later sessions. /help lists commands and keys; F2 shows what memory does."
    )
