"""The address ``/``, for a person who opens the server in a browser."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

router = APIRouter()
_TEXT = """This is memagent, a server for clients of OpenAI's API.

Base URL for clients: http://HOST:PORT/v1
GET /v1/models lists the memories, /healthz says whether the server runs.
"""


@router.get("/")
async def page() -> PlainTextResponse:
    """Say what this is."""
    return PlainTextResponse(_TEXT)
