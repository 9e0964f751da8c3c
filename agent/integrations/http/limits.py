"""How much the server takes from a client, and how long it works for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memagent.agent.integrations.http.errors import ApiError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server.

    Attributes:
        body_bytes: largest body of a request.
        body_seconds: a body that has not come by then is refused.
        requests: most requests that are answered at a time, those that wait included.
        replies: most replies that wait or are generated at a time.
        replies_per_user: the same for one user.
        reply_seconds: a reply that has not begun by then is given up, and one in progress ends there.
        reply_tokens: the longest reply.
        default_reply_tokens: the longest reply where the client does not say.
    """

    body_bytes: int = 4 * 2**20
    body_seconds: float = 30.0
    requests: int = 512
    replies: int = 256
    replies_per_user: int = 32
    reply_seconds: float = 600.0
    reply_tokens: int = 4096
    default_reply_tokens: int = 512


class ReplyCounter:
    """Counts the replies that wait or are generated. An event loop uses it, so that it needs no lock.

    Args:
        limits: of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_user: Counter[str] = Counter()

    @contextmanager
    def counted(self, user: str) -> Iterator[None]:
        """Count a reply until the context ends.

        Args:
            user: who gets it.

        Raises:
            ApiError: there are too many; with status 429.
        """
        if self._by_user[user] >= self._limits.replies_per_user:
            raise _too_many(f"{self._limits.replies_per_user} replies to this user are in progress or wait.")
        if self._by_user.total() >= self._limits.replies:
            raise _too_many(f"{self._limits.replies} replies are in progress or wait.")
        self._by_user[user] += 1
        try:
            yield
        finally:
            self._by_user[user] -= 1
            if not self._by_user[user]:
                del self._by_user[user]


def _too_many(message: str) -> ApiError:
    return ApiError(
        429,
        f"{message} Nothing was stored; try again later.",
        "rate_limit_error",
        "rate_limit_exceeded",
        headers={"Retry-After": "5"},
    )
