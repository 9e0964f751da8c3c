"""What the routes need of the server, and who sends a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from memagent.agent.integrations.access.access import MemoryAccess
from memagent.agent.integrations.http.errors import ApiError
from memagent.agent.integrations.http.identity import Identifier, Identity
from memagent.agent.integrations.http.limits import Limits, ReplyCounter
from memagent.agent.integrations.http.replies import Replies


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server consists of.

    Attributes:
        replies: answers messages.
        access: the memories without a model.
        identifier: tells who sends a request.
        counter: counts replies.
        limits: of the server.
    """

    replies: Replies
    access: MemoryAccess
    identifier: Identifier
    counter: ReplyCounter
    limits: Limits


def parts_of(request: Request) -> Parts:
    """Return the parts of the server that answers a request."""
    return cast(Parts, request.app.state.parts)


def identity_of(request: Request) -> Identity:
    """Return who sends a request.

    Raises:
        RefusedError: it has no valid key and needs one.
    """
    return parts_of(request).identifier.identify(request.scope)


@dataclass(frozen=True, slots=True)
class User:
    """Whose memory a request uses.

    Attributes:
        name: of the user.
        secret: as in ``Identity``.
    """

    name: str
    secret: bytes


def user_of(identity: Annotated[Identity, Depends(identity_of)]) -> User:
    """Return whose memory a request uses.

    Raises:
        ApiError: the key is of a program for many people, and the request does not say for whom.
    """
    if identity.user is None:
        raise ApiError(
            400,
            f"This key is of a program for many people: the header {identity.user_header} must name the person.",
            code="user_missing",
        )
    return User(identity.user, identity.secret)


ServerParts = Annotated[Parts, Depends(parts_of)]
KnownClient = Annotated[Identity, Depends(identity_of)]
KnownUser = Annotated[User, Depends(user_of)]
