"""``/v1/memories``: add, search, list and delete memories, for programs without MCP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from memagent.agent.integrations.access.operations import check_length
from memagent.agent.integrations.http.dependencies import KnownUser, ServerParts
from memagent.agent.integrations.http.errors import ApiError
from memagent.agent.integrations.http.schemas import MemorySearch, NewMemory
from memagent.backends.errors import InputError

router = APIRouter()
Id = Annotated[int, Path(ge=1, le=2**53)]


@router.post("/v1/memories", status_code=201)
async def add(body: NewMemory, user: KnownUser, parts: ServerParts) -> dict[str, Any]:
    """Store a text."""
    check_length("The text", body.text)
    return (await parts.access.add(user.name, body.text.strip(), body.session)).model_dump()


@router.post("/v1/memories/search")
async def search(body: MemorySearch, user: KnownUser, parts: ServerParts) -> dict[str, Any]:
    """Return what is relevant to a query, best first."""
    check_length("The query", body.query)
    if not body.query.strip():
        raise ApiError(
            400, "The query is empty. Ask in a full sentence, or list the memories.", param="query"
        )
    return (await parts.access.search(user.name, body.query, body.limit)).model_dump()


@router.get("/v1/memories")
async def list_page(
    user: KnownUser,
    parts: ServerParts,
    session: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Return a page of the memories, newest first."""
    return (await parts.access.list_page(user.name, session, limit, cursor)).model_dump()


@router.get("/v1/memories/{id_}")
async def get(id_: Id, user: KnownUser, parts: ServerParts) -> dict[str, Any]:
    """Return one memory."""
    try:
        return (await parts.access.get(user.name, id_)).model_dump()
    except InputError as error:
        raise _missing(id_) from error


@router.delete("/v1/memories/{id_}")
async def delete(id_: Id, user: KnownUser, parts: ServerParts) -> dict[str, Any]:
    """Delete a memory, and replies that may repeat it, everywhere."""
    try:
        return (await parts.access.delete(user.name, id_)).model_dump()
    except InputError as error:
        raise _missing(id_) from error


def _missing(id_: int) -> ApiError:
    message = (
        f"There is no memory {id_}: it was never stored, or it has been deleted. "
        "GET /v1/memories returns the ids of those that there are."
    )
    return ApiError(404, message, code="not_found")
