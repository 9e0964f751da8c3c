"""Errors as clients of OpenAI's API expect them: a status, and a body with message, type, param and code."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from memagent.agent.integrations.http.identity import RefusedError
from memagent.backends.errors import (
    BusyError,
    InputError,
    MemagentError,
    MissingExtraError,
    NotFoundError,
    SettingError,
)

_LOG = logging.getLogger("memagent.server")
_RETRY_SECONDS = "2"


@dataclass
class ApiError(Exception):
    """A request cannot be answered.

    Attributes:
        status: of the response.
        message: what happened, what was expected and what to do.
        type: as in OpenAI's API.
        code: for programs; None: none.
        param: the field of the request that is wrong; None: none.
        headers: further headers of the response.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def response(self) -> JSONResponse:
        """The response."""
        return JSONResponse(self.body, self.status, self.headers)


def unauthorized(message: str) -> ApiError:
    """Return the error of a request without a valid key.

    Args:
        message: what is wrong with the key.
    """
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, "authentication_error", "invalid_api_key", headers=headers)


def api_error(error: Exception) -> ApiError:
    """Return what a client gets for an error. One that was not raised on purpose is logged, and says nothing.

    Args:
        error: any error.
    """
    match error:
        case ApiError():
            return error
        case RefusedError():
            return unauthorized(str(error))
        case InputError() | SettingError():
            return ApiError(400, str(error))
        case NotFoundError():
            return ApiError(404, str(error), code="not_found")
        case BusyError():
            headers = {"Retry-After": _RETRY_SECONDS}
            return ApiError(503, str(error), "server_error", "memory_busy", headers=headers)
        case MissingExtraError():
            return ApiError(501, str(error), "server_error", "not_installed")
        case MemagentError():
            return ApiError(500, str(error), "server_error", type(error).__name__)
        case HTTPException():
            return _http_error(error)
    log_fault(error)
    return ApiError(500, "The server failed; its log says where.", "server_error", "internal_error")


def log_fault(error: BaseException) -> None:
    """Log where an unexpected error was raised, without its message, which may hold texts of people.

    Args:
        error: the error.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    _LOG.error("Unexpected %s at %s", type(error).__name__, places)


def add_handlers(app: FastAPI) -> None:
    """Let an application answer errors in this form.

    Args:
        app: gets the handlers.
    """

    async def answer(request: Request, error: Exception) -> JSONResponse:
        return api_error(error).response

    async def answer_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
        return _invalid(request, error).response

    for kind in (ApiError, RefusedError, MemagentError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, answer_invalid)


def _http_error(error: HTTPException) -> ApiError:
    """Return the error of a request that no route takes, or whose body cannot be read."""
    messages = {
        404: "There is nothing at this address. The API is below /v1: /v1/chat/completions, /v1/models, /v1/memories.",
        405: "This address does not take the method of the request.",
    }
    message = messages.get(error.status_code, str(error.detail))
    if error.status_code == 400:
        message = "The body of the request cannot be read: JSON in UTF-8 is expected."
    return ApiError(error.status_code, message, headers=error.headers)


def _invalid(request: Request, error: RequestValidationError) -> ApiError:
    """Return the error of a request whose fields do not fit; it names the first one, and repeats no texts."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body of the request is not JSON: {first['ctx']['error']}.")
    if not place and "json" not in request.headers.get("content-type", ""):
        return ApiError(400, "Send a JSON object, with the header Content-Type: application/json.")
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{'.'.join(place) or 'The body'}: {message}", param=".".join(place) or None)
