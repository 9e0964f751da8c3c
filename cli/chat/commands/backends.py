"""Slash commands on memories: use another one, compare two."""

from __future__ import annotations

from rich.text import Text

from memagent.backends.errors import InputError
from memagent.cli.chat.chat import Chat, Interface
from memagent.cli.chat.commands.command import Command
from memagent.cli.chat.costs import cost_of, describe_memories
from memagent.cli.chat.views import Answer, Comparison, MemoryList


def _backend(chat: Chat, interface: Interface, argument: str) -> None:
    if argument:
        use(chat, interface, argument)
    elif not interface.show(MemoryList()):
        for memory in describe_memories(chat):
            state = "In use." if memory.name == chat.memory.name else memory.cost
            interface.console.print(
                Text.assemble((memory.name, "bold"), f": {memory.about} {state}"), soft_wrap=True
            )


def use(chat: Chat, interface: Interface, argument: str) -> None:
    """Use another memory from now on, if the person agrees to what it costs.

    Args:
        chat: gets the memory. If that cannot be opened, the one in use stays.
        interface: says what it costs, and asks.
        argument: name of the memory, or several joined by ``+``.

    Raises:
        InputError: it is in use already.
        MemagentError: see ``Chat.use_backend``.
    """
    if argument == chat.memory.name:
        raise InputError(f"{argument} is in use already.")
    interface.console.print(cost_of(argument, chat), soft_wrap=True)
    if interface.ask(f"Use {argument} from now on?"):
        interface.frontend.notify(f"Opening {argument} ...")
        chat.use_backend(argument, interface.frontend)
        interface.console.print(
            f"{argument} is in use; memory reaches the model by the channel {chat.conversation.channel}."
        )


def _compare(chat: Chat, interface: Interface, argument: str) -> None:
    from memagent.agent.engine.agent import collect
    from memagent.agent.engine.events import TurnEnded

    other, question = _other_backend(chat, argument)
    with chat.beside(other, interface.frontend) as conversation:
        both = (chat.conversation, conversation)
        answers = []
        for each in interface.frontend.progress(both, total=len(both), label="Asking both memories"):
            events = list(each.probe(question))
            if any(isinstance(event, TurnEnded) and event.stopped for event in events):
                raise InputError("The comparison was stopped.")
            answers.append(Answer(each.memory.name, each.channel, collect(events)))
    if not interface.show(Comparison(question, tuple(answers))):
        for answer in answers:
            _print_answer(answer, question, interface)


def _other_backend(chat: Chat, argument: str) -> tuple[str, str]:
    """Return the backend to compare with, and the question; without a name it is bm25, or rag beside bm25."""
    from memagent.backends import registry

    first, _, rest = argument.partition(" ")
    if rest and first != chat.memory.name and set(first.split(registry.SEPARATOR)) <= set(registry.names()):
        return first, rest.strip()
    if not argument:
        raise InputError("/compare takes a question, as in: /compare What is my dog called?")
    return ("rag" if chat.memory.name == "bm25" else "bm25"), argument


def _print_answer(answer: Answer, question: str, interface: Interface) -> None:
    from memagent.cli.rendering.text import print_recollections

    console, reply = interface.console, answer.reply
    console.print(Text(f"{answer.memory} ({answer.channel})", "bold"))
    console.print(Text(reply.text))
    print_recollections(reply.recollections, question, console)
    console.print(
        f"recall {reply.seconds.recall * 1000:.0f} ms, reply {reply.seconds.total:.1f} s", style="dim"
    )
    console.print()


def _names(chat: Chat) -> list[str]:
    from memagent.cli.completion import backends

    return [name for name in backends("") if name != chat.memory.name]


COMMANDS = (
    Command("/backend", "[NAME]", "Use another memory: the journal is read into it.", _backend, _names),
    Command("/compare", "[NAME] QUESTION", "Ask two memories the same question.", _compare),
)
