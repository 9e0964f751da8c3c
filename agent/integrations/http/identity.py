"""Whose request it is: by its key, or, on this machine's loopback interface, the user whom the server was started for."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memagent.agent.home import folder_name
from memagent.agent.integrations.http.keys import PREFIX, KeyStore
from memagent.agent.journal.records import check_name
from memagent.backends.errors import InputError

_FORWARDING = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


class RefusedError(Exception):
    """A request may not be answered; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends a request.

    Attributes:
        user: whose memory it may use; None: the key is of a program for many people, and the request does not say for whom.
        secret: known to whoever sends it and to nobody who has the journal, for digests of texts.
        user_header: the header that should have named the user.
    """

    user: str | None
    secret: bytes
    user_header: str | None = None


class Identifier:
    """Tells who sends a request.

    Args:
        keys: the keys.
        local_user: whose memory requests without a key use; None: there are none, every request needs a key.
        local_secret: the secret of requests without a key.
    """

    def __init__(self, keys: KeyStore, local_user: str | None, local_secret: bytes) -> None:
        self._keys = keys
        self._local_user = local_user
        self._local_secret = local_secret

    def identify(self, scope: Mapping[str, Any]) -> Identity:
        """Return who sends a request.

        On the loopback interface, a key that is none of ours is a placeholder as long as no key was ever added: clients of
        OpenAI's API insist on sending one.

        Args:
            scope: of the request, as ASGI has it.

        Raises:
            RefusedError: it has no valid key and needs one.
            InputError: the name in the header of a program for many people cannot be used.
            StorageError: the keys cannot be read.
        """
        headers = headers_of(scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip()
        if token and scheme.lower() == "bearer":
            record = self._keys.find(token)
            if record is not None:
                secret = token.encode("utf-8", "surrogatepass")
                if record.user_header is None:
                    return Identity(record.user, secret)
                value = headers.get(record.user_header.lower(), "").strip()
                user = _forwarded_user(record.user, value) if value else None
                return Identity(user, secret, record.user_header)
            if token.startswith(PREFIX) or self._local_user is None or self._keys.records():
                raise RefusedError("The key is not valid. `memagent keys add` makes one.")
        if self._local_user is None:
            raise RefusedError("A key is needed: Authorization: Bearer KEY. `memagent keys add` makes one.")
        if forwarding := next((name for name in _FORWARDING if name in headers), None):
            raise RefusedError(
                f"The request comes through a proxy (header {forwarding}) and has no key. "
                "Send one: Authorization: Bearer KEY. `memagent keys add` makes it."
            )
        return Identity(self._local_user, self._local_secret)


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a request by their names in small letters; of several with one name, the first.

    Args:
        scope: of the request, as ASGI has it.
    """
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return headers


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is this machine's loopback interface.

    Args:
        host: such as ``127.0.0.1``, ``localhost`` or ``::1``.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _forwarded_user(program: str, value: str) -> str:
    """Return the user for whom a program asks. The program's name is part of it: it reaches no other memories."""
    user = f"{program}/{value}"
    try:
        check_name("user name", user)
        folder_name(user)
    except InputError as error:
        raise InputError(f"The user that the request names: {error}") from error
    return user
