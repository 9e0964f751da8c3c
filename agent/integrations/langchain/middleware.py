"""Long-term memory as middleware of a LangChain agent: it recalls before the model is called, and journals the conversation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import BaseMessage, RemoveMessage

from memagent.agent.engine.prompt import fenced
from memagent.agent.integrations.langchain.chat_model import Attachment, ChatMemagent
from memagent.agent.integrations.langchain.notes import fitting, with_instructions, with_notes
from memagent.agent.integrations.langchain.scope import MemoryLender, Scope, UserOf, lender_of, scope_of
from memagent.agent.integrations.langchain.thread import (
    new_humans,
    outdated_ids,
    store_humans,
    store_reply,
    view_of,
)
from memagent.agent.integrations.langchain.threads import in_thread
from memagent.agent.memory import Memory
from memagent.backends.errors import MissingExtraError, SettingError
from memagent.backends.records import Recollection

try:
    from langchain.agents.middleware.types import (
        AgentMiddleware,
        AgentState,
        ExtendedModelResponse,
        ModelRequest,
        ModelResponse,
        PrivateStateAttr,
    )
    from langgraph.channels import UntrackedValue
    from langgraph.runtime import Runtime
    from langgraph.types import Command
except ModuleNotFoundError as error:
    raise MissingExtraError("MemoryMiddleware", error.name or "langchain", "langchain") from error

_RECALL, _SEQS = "memagent_recall", "memagent_recalled"


@dataclass(frozen=True, slots=True)
class Recall:
    """What memory recalled for one message of the user.

    Attributes:
        recollections: what is pinned and what was recalled, as far as it is in the prompt.
        notes: the block of notes for the prompt; empty if nothing was recalled.
        query: the message; empty if it has no text.
        in_view: seqs of the turns whose messages are in the prompt anyway.
    """

    recollections: tuple[Recollection, ...]
    notes: str
    query: str
    in_view: frozenset[int]


class MemoryState(AgentState[Any]):
    """The state of an agent with memory.

    Attributes:
        memagent_recall: what was recalled for the last message of the user; in no checkpoint.
        memagent_recalled: seqs of the turns that were recalled since the last stored reply.
    """

    memagent_recall: NotRequired[Annotated[Recall, UntrackedValue, PrivateStateAttr]]
    memagent_recalled: NotRequired[Annotated[list[int], PrivateStateAttr]]


class MemoryMiddleware(AgentMiddleware[MemoryState, Any, Any]):
    """Gives a LangChain agent the long-term memory of the user it talks with.

        agent = create_agent(model, middleware=[MemoryMiddleware(pool)], context_schema=MemoryContext)
        agent.invoke({"messages": [("user", "My dog is called Biscuit.")]}, context=MemoryContext("ana", "monday"))

    Before the agent starts, it recalls for the user's message and stores the message. The model gets what was recalled as notes
    before that message; no notes are in the thread's messages or checkpoints. After the agent has ended, it stores the
    reply. If the model fails or the caller abandons the stream, the message is stored and the reply is not. Messages of the
    thread that the user has had forgotten, and replies that may repeat them, are removed from the thread.

    Args:
        memory: a pool of memories, or one open memory.
        user: whose memory, or a function that returns the user for a runtime, at once; None: the context's attribute ``user``.
        session: the session; None: the context's attribute ``session``, or else the id of the thread.
        limit: most recollections for a message.
        budget: most tokens of recollections, and of what is pinned, by an estimate.
        channel: how recollections reach the model: in the prompt (``text``), inside a ``ChatMemagent`` (``model``), or
            ``both``.
    """

    state_schema = MemoryState

    def __init__(
        self,
        memory: Memory | MemoryLender,
        *,
        user: UserOf = None,
        session: str | None = None,
        limit: int = 5,
        budget: int = 1024,
        channel: Literal["text", "model", "both"] = "text",
    ) -> None:
        super().__init__()
        self._lender = lender_of(memory)
        self._user = user
        self._session = session
        self._limit = limit
        self._budget = budget
        self._channel = channel

    def before_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Recall for the user's message, and store the message.

        Raises:
            SettingError: neither the middleware nor the run says who the user is, or which session it is.
            InputError: the message cannot be stored.
            MemagentError: the memory cannot be opened, or recall failed. In the latter case, the message is stored.
        """
        scope = self._scope(runtime)
        messages = state["messages"]
        recalled = set(state.get("memagent_recalled", ()))
        with self._lender.memory(scope.user) as memory:
            try:
                outdated = outdated_ids(memory.journal, scope.session, messages, recalled)
                kept = [message for message in messages if message.id not in outdated]
                recall = self._recall(memory, scope, kept)
            finally:  # the message is stored whatever fails
                store_humans(memory.journal, scope.session, messages)
            present = memory.journal.get(recalled)
        seqs = {seq for item in recall.recollections for seq in item.seqs}.union(turn.seq for turn in present)
        removals = [RemoveMessage(id=message_id) for message_id in outdated]
        return {"messages": removals, _RECALL: recall, _SEQS: sorted(seqs)}

    async def abefore_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Do as ``before_agent``, in another thread."""
        return await in_thread(self._scope(runtime).user, partial(self.before_agent, state, runtime))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Call the model with what was recalled."""
        changed, update = self._prepared(request)
        return _with_update(handler(changed), update)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Do as ``wrap_model_call``."""
        user = self._scope(request.runtime).user
        changed, update = await in_thread(user, partial(self._prepared, request))
        return _with_update(await handler(changed), update)

    def after_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Store what the agent replied to the user's last message, and let memory read message and reply.

        Raises:
            StorageError: the journal cannot be written; the reply was not stored.
        """
        scope = self._scope(runtime)
        with self._lender.memory(scope.user) as memory:
            recalled = frozenset(state.get("memagent_recalled", ()))
            stored = store_reply(memory, scope.session, state["messages"], recalled)
        return {_SEQS: []} if stored else None

    async def aafter_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Do as ``after_agent``, in another thread."""
        return await in_thread(self._scope(runtime).user, partial(self.after_agent, state, runtime))

    def _scope(self, runtime: Runtime[Any]) -> Scope:
        return scope_of(runtime, self._user, self._session)

    def _recall(self, memory: Memory, scope: Scope, messages: Sequence[BaseMessage]) -> Recall:
        """Recall before memory reads the message itself, and omit turns that are in the prompt anyway."""
        humans = new_humans(messages)
        query = humans[-1].text if humans else ""
        pinned = memory.pinned()
        in_view = frozenset(view_of(memory.journal, scope.session, messages).seqs)
        items: list[Recollection] = []
        if query and self._channel != "model":
            given_seqs = in_view.union(*(item.seqs for item in pinned))
            candidates = memory.recall(query, limit=self._limit + len(given_seqs))
            items = [item for item in candidates if given_seqs.isdisjoint(item.seqs)][: self._limit]
        else:
            memory.catch_up()
        chosen = (*fitting(pinned, self._budget), *fitting(items, self._budget))
        return Recall(chosen, fenced(chosen), query, in_view)

    def _prepared(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], dict[str, Any] | None]:
        """Return the request with what was recalled, and the update of the state if it had to be recalled again.

        Where another process began the run, for instance before an interrupt, this one has to recall.
        """
        state: Any = request.state
        recall, update, messages = state.get(_RECALL), None, request.messages
        if recall is None:
            update = self.before_agent(state, request.runtime)
            recall = update[_RECALL]
            removed = {removal.id for removal in update["messages"]}
            messages = [message for message in messages if message.id not in removed]
        changed = request.override(
            messages=with_notes(messages, recall.notes),
            system_message=with_instructions(
                request.system_message, notes=bool(recall.notes) or self._channel != "model"
            ),
        )
        if self._channel != "text" and recall.query:
            changed = changed.override(model=self._attached(request, recall))
        return changed, update

    def _attached(self, request: ModelRequest[Any], recall: Recall) -> ChatMemagent:
        """Return the agent's model with the user's memory inside.

        Raises:
            SettingError: the model is no ``ChatMemagent``.
        """
        if not isinstance(request.model, ChatMemagent):
            raise SettingError(
                f"Memory can act inside a ChatMemagent only, and the agent's model is a {type(request.model).__name__}. "
                "Use channel='text'."
            )
        user = self._scope(request.runtime).user
        exclude = recall.in_view.union(*(item.seqs for item in recall.recollections))
        return request.model.attached(Attachment(self._lender, user, recall.query, exclude))


def _with_update(
    response: ModelResponse[Any], update: dict[str, Any] | None
) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    return response if update is None else ExtendedModelResponse(response, Command(update=update))
