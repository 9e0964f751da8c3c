"""Slash commands on memories: use another one, compare two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from memagent.backends.errors import CheckpointError, InputError
from memagent.cli.chat.chat import Chat, Interface
from memagent.cli.chat.commands.command import Command
from memagent.cli.rendering.phrases import quantity

if TYPE_CHECKING:
    from memagent.agent.engine.agent import Reply
    from memagent.agent.engine.conversation import Conversation


def _backend(chat: Chat, interface: Interface, argument: str) -> None:
    from memagent.backends import registry

    if not argument:
        interface.console.print(f"{chat.memory.name} is in use. Known: {', '.join(registry.names())}.")
        return
    if argument == chat.memory.name:
        raise InputError(f"{argument} is in use already.")
    interface.console.print(cost_of(argument, chat))
    if interface.ask(f"Use {argument} from now on?"):
        chat.use_backend(argument, interface.frontend)
        channel = chat.conversation.channel
        interface.console.print(f"{argument} is in use; memory reaches the model by the channel {channel}.")


def cost_of(backend: str, chat: Chat) -> str:
    """Return a sentence that says how many turns another memory has still to read, and whether that takes long.

    Args:
        backend: its name, or several joined by ``+``.
        chat: whose journal it would read.

    Raises:
        NotFoundError: there is no such backend.
    """
    from memagent.agent.memory.checkpoint import CheckpointStore
    from memagent.backends import registry

    last_seq = chat.journal.last()[0]
    sentences = []
    for choice in registry.choose(backend, {}):
        try:
            store = CheckpointStore(chat.memory.home.backend_folder(chat.memory.user, choice.name))
            checkpoint = store.read()
        except CheckpointError:
            checkpoint = None
        unread = last_seq - (checkpoint.position.seq if checkpoint else 0)
        sentence = f"{choice.name} has {quantity(unread, 'turn')} to read."
        if unread and choice.backend.costly:
            sentence += " It learns slowly: expect minutes for hundreds of turns."
        sentences.append(sentence)
    return " ".join(sentences)


def _compare(chat: Chat, interface: Interface, argument: str) -> None:
    other, question = _other_backend(chat, argument)
    with chat.beside(other, interface.frontend) as conversation:
        for each in (chat.conversation, conversation):
            _print_reply(each, _probe(each, question), question, interface)


def _other_backend(chat: Chat, argument: str) -> tuple[str, str]:
    """Return the backend to compare with, and the question; without a name it is bm25, or rag beside bm25."""
    from memagent.backends import registry

    first, _, rest = argument.partition(" ")
    if rest and first != chat.memory.name and set(first.split(registry.SEPARATOR)) <= set(registry.names()):
        return first, rest.strip()
    if not argument:
        raise InputError("/compare takes a question, as in: /compare What is my dog called?")
    return ("rag" if chat.memory.name == "bm25" else "bm25"), argument


def _probe(conversation: Conversation, question: str) -> Reply:
    """Ask a question without adding a turn."""
    from memagent.agent.engine.agent import collect

    return collect(list(conversation.probe(question)))


def _print_reply(conversation: Conversation, reply: Reply, question: str, interface: Interface) -> None:
    from memagent.cli.rendering.text import print_recollections

    console = interface.console
    console.print(Text(f"{conversation.memory.name} ({conversation.channel})", "bold"))
    console.print(Text(reply.text))
    print_recollections(reply.recollections, question, console)
    recall, total = reply.seconds.recall, reply.seconds.total
    console.print(f"recall {recall * 1000:.0f} ms, reply {total:.1f} s", style="dim")
    console.print()


COMMANDS = (
    Command("/backend", "[NAME]", "Use another memory: the journal is read into it.", _backend),
    Command("/compare", "[NAME] QUESTION", "Ask two memories the same question.", _compare),
)
