"""memagent chat: one message (-p), lines from a pipe, or a chat at the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from memagent.cli import completion
from memagent.cli.chat.chat import Chat, ChatOptions
from memagent.cli.inputs import read_stdin, require_utf8
from memagent.cli.options import (
    DEFAULT_BACKEND,
    DEFAULT_USER,
    MAX_INTEGER,
    BackendOption,
    ChannelName,
    ChannelOption,
    EmbedderOption,
    ModelOption,
    Output,
    OutputOption,
    SetOption,
    UserOption,
    user_settings,
)
from memagent.cli.rendering.frontend import standard_error
from memagent.cli.rendering.output import as_json, has_screen, write

if TYPE_CHECKING:
    from memagent.agent.engine.conversation import Conversation


def chat(
    context: typer.Context,
    backend: BackendOption = DEFAULT_BACKEND,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    user: UserOption = DEFAULT_USER,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            "-s",
            help="Name of the session to begin or continue.",
            autocompletion=completion.sessions,
        ),
    ] = None,
    continue_: Annotated[bool, typer.Option("--continue", "-c", help="Continue the latest session.")] = False,
    channel: ChannelOption = ChannelName.AUTO,
    prompt: Annotated[
        str | None,
        typer.Option("-p", "--prompt", help="Answer one message and exit; - reads it from standard input."),
    ] = None,
    output: OutputOption = Output.TEXT,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="Lines of text instead of the full screen: for dumb terminals and screen readers."
        ),
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, max=MAX_INTEGER, help="Longest reply, in tokens.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="0: always the most likely token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=MAX_INTEGER, help="For temperatures above 0.")] = 0,
    set_: SetOption = None,
) -> None:
    """Chat with a model that has a long-term memory. In the chat, /help lists the commands.

    Examples:

      memagent chat

      memagent chat --backend rag -p "My dog is called Biscuit." --session monday

      memagent chat -p "What is my dog called?" --output json

      memagent chat --continue --model ollama:llama3.2
    """
    if session is not None and continue_:
        raise typer.BadParameter("give --session or --continue, not both")
    if output is Output.JSON and prompt is None:
        raise typer.BadParameter("--output json answers one message: give it with -p")
    message = (
        None if prompt is None else read_stdin() if prompt == "-" else require_utf8(prompt, "The message")
    )
    if message is not None:
        from memagent.agent.journal.records import check_text

        check_text(message)  # before a model is loaded for nothing
    options = ChatOptions(
        user=user,
        backend=backend,
        settings=tuple(set_ or ()),
        model=model,
        model_is_default=_is_default(context, "model"),
        channel=channel.value,
        session=session,
        continue_latest=continue_,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        command=("memagent", "chat", *_given_options(context)),
    )
    if message is None and not plain and has_screen():
        from memagent.cli.chat.fullscreen.program import run

        run(options)
        return
    with Chat.open(options, standard_error()) as chat:
        if message is None:
            from memagent.cli.chat.plain import converse

            converse(chat)
        else:
            _answer(chat.conversation, message, output)


def _is_default(context: typer.Context, option: str) -> bool:
    """Return whether neither the command line nor environment nor settings file gives an option."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "DEFAULT" and option not in user_settings().model_fields_set


def _given_options(context: typer.Context) -> list[str]:
    """Return the options given on the command line, except those that choose the session."""
    words: list[str] = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is None or source.name != "COMMANDLINE" or option.name in ("session", "continue_"):
            continue
        value = context.params[option.name or ""]
        for item in value if isinstance(value, list | tuple) else [value]:
            words += [option.opts[0]] if item is True else [option.opts[0], str(item)]
    return words


def _answer(conversation: Conversation, message: str, output: Output) -> None:
    """Send one message in a conversation, which stores message and reply, and print the reply."""
    from dataclasses import asdict

    from memagent.agent.engine.agent import collect
    from memagent.agent.engine.events import Token
    from memagent.agent.fields import recollection_fields

    events = []
    for event in conversation.send(message):
        events.append(event)
        if output is Output.TEXT and isinstance(event, Token):
            write(event.text, end="")
    if output is Output.TEXT:
        write()
        return
    reply = collect(events)
    as_json(
        {
            "reply": reply.text,
            "backend": conversation.memory.name,
            "channel": conversation.channel,
            "session": conversation.session,
            "user": conversation.memory.user,
            "recollections": [recollection_fields(item) for item in reply.recollections],
            "usage": asdict(reply.usage),
            "seconds": {key: round(value, 3) for key, value in asdict(reply.seconds).items()},
        }
    )
