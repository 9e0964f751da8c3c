"""A memory as a LangChain retriever: documents with provenance and score."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, SkipValidation

from memagent.agent.integrations.langchain.scope import MemoryLender, lender_of, user_of
from memagent.agent.integrations.langchain.threads import in_thread
from memagent.agent.memory import Memory
from memagent.backends.records import Recollection


class MemagentRetriever(BaseRetriever):
    """Retrieves what a user's memory recalls, best first; often nothing, because most questions need no memory.

        retriever = MemagentRetriever(memory=pool, user="ana", k=5)
        retriever.invoke("What is my dog called?")

    A document's metadata are ``seqs``, ``session``, ``role``, ``speaker``, ``created_at`` (ISO 8601), ``score``, ``why``,
    ``regenerated``, ``superseded_by`` and ``superseded_at``, as in ``Recollection``. Its id is the seqs of its turns.

    Attributes:
        memory: a pool of memories, or one open memory.
        user: whose memory; not needed with an open memory.
        k: most documents returned; ``invoke(query, k=3)`` overrides it.
    """

    memory: Annotated[Memory | MemoryLender, SkipValidation] = Field(exclude=True, repr=False)
    user: str | None = None
    k: int = Field(default=5, ge=1)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return self._documents(query, k)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return await in_thread(user_of(self.memory, self.user), partial(self._documents, query, k))

    def _documents(self, query: str, k: int | None) -> list[Document]:
        with lender_of(self.memory).memory(user_of(self.memory, self.user)) as memory:
            recollections = memory.recall(query, limit=self.k if k is None else k)
        return [document_of(recollection) for recollection in recollections]


def document_of(recollection: Recollection) -> Document:
    """Return a recollection as a document.

    Args:
        recollection: what a memory recalled.
    """
    superseded_at = recollection.superseded_at
    metadata: dict[str, Any] = {
        "seqs": list(recollection.seqs),
        "session": recollection.session,
        "role": recollection.role,
        "speaker": recollection.speaker,
        "created_at": recollection.created_at.isoformat(),
        "score": recollection.score,
        "why": recollection.why,
        "regenerated": recollection.regenerated,
        "superseded_by": recollection.superseded_by,
        "superseded_at": superseded_at.isoformat() if superseded_at else None,
    }
    return Document(
        id=",".join(map(str, recollection.seqs)), page_content=recollection.text, metadata=metadata
    )
