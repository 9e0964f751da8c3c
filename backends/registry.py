"""Look up backends by name, convert their settings, and list their capabilities.

Backends are entry points of the group ``memagent.backends``, the built-in ones included. Any package adds a backend
with a module and a line in its ``pyproject.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from math import isfinite
from typing import Any

from memagent.backends.errors import MissingExtraError, NotFoundError, SettingError
from memagent.backends.protocol import MemoryBackend

GROUP = "memagent.backends"
_MAX_QUOTE = 80
CONTROL = "none"
"""Name of the backend that remembers nothing: the control of experiments."""

SEPARATOR = "+"
"""Joins the names of several backends that are opened as one memory."""


@dataclass(frozen=True)
class Choice:
    """One backend with its settings.

    Attributes:
        name: name of the backend's entry point.
        backend: its class.
        settings: the user's settings as text, by field name.
        config: the settings after validation, an instance of the backend's ``Config``.
    """

    name: str
    backend: type[MemoryBackend]
    settings: Mapping[str, str]
    config: Any


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do and which models it needs; the fields are the flags of ``MemoryBackend``."""

    exact_forget: bool
    consolidates: bool
    model_channel: bool
    fixed_size: bool
    regenerates: bool
    costly: bool
    follows_use: bool
    trainable: bool
    needs_embedder: bool
    needs_local_model: bool


def names() -> list[str]:
    """Return the names of all installed backends, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def get(name: str) -> type[MemoryBackend]:
    """Import a backend's class.

    Args:
        name: name of its entry point.

    Raises:
        NotFoundError: no installed package provides a backend of that name.
        MissingExtraError: a package that the backend imports is not installed.
    """
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise NotFoundError("backend", name, points)
    try:
        backend: type[MemoryBackend] = points[name].load()
    except ModuleNotFoundError as error:
        source = points[name].dist
        raise MissingExtraError(
            f"The backend {name}", error.name or "?", distribution=source.name if source else ""
        ) from error
    return backend


def capabilities(backend: type[MemoryBackend]) -> Capabilities:
    """Return a backend's capability flags and the models it needs."""
    return Capabilities(
        exact_forget=backend.exact_forget,
        consolidates=backend.consolidates,
        model_channel=backend.model_channel,
        fixed_size=backend.fixed_size,
        regenerates=backend.regenerates,
        costly=backend.costly,
        follows_use=backend.follows_use,
        trainable=backend.trainable,
        needs_embedder="embedder" in backend.needs,
        needs_local_model="local_model" in backend.needs,
    )


def needs(name: str) -> frozenset[str]:
    """Return which shared models a backend needs, or several joined by ``+``: of ``embedder`` and ``local_model``.

    Raises:
        NotFoundError, MissingExtraError: see ``get``.
    """
    return frozenset(need for part in name.split(SEPARATOR) for need in get(part).needs)


def choose(name: str, settings: Mapping[str, str]) -> list[Choice]:
    """Look up one backend, or several whose names are joined by ``+``, and convert their settings.

    Args:
        name: one name, or several joined by ``+``.
        settings: text by ``backend.field``; for one backend, by field name as well.

    Returns:
        One choice for each name, in the order of the names.

    Raises:
        NotFoundError: a backend or a setting does not exist.
        SettingError: a setting does not fit its field or belongs to none of the backends, or a backend is named twice.
        MissingExtraError: a package that a backend imports is not installed.
    """
    parts = name.split(SEPARATOR)
    backends = {part: get(part) for part in parts}
    if len(backends) < len(parts):
        raise SettingError(f"The memory {name!r} names a backend twice; expected different ones.")
    settings_of: dict[str, dict[str, str]] = {part: {} for part in parts}
    for key, value in settings.items():
        part, dot, field = key.partition(".")
        if dot and part in settings_of:
            settings_of[part][field] = value
        elif len(parts) == 1:
            settings_of[name][key] = value
        else:
            raise SettingError(
                f"The setting {key!r} belongs to none of the backends of {name}; expected for instance {parts[0]}.abstain."
            )
    return [
        Choice(part, backend, settings_of[part], configure(backend, settings_of[part]))
        for part, backend in backends.items()
    ]


def configure(backend: type[MemoryBackend], settings: Mapping[str, str]) -> Any:
    """Build a backend's config from settings, each converted to the type of its field.

    Args:
        backend: its class.
        settings: text by field name.

    Returns:
        An instance of the backend's ``Config``.

    Raises:
        NotFoundError: the backend has no such setting.
        SettingError: the value does not fit the field, or is a number that is not finite or exceeds 64 bits.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in fields(backend.Config)]
    for key in settings:
        if key not in known:
            raise NotFoundError(f"setting of {backend.name}", key, known)
    try:
        config = TypeAdapter(backend.Config).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise _misfit(backend, where, settings.get(where, ""), first["msg"]) from error
    for key, value in settings.items():
        number = getattr(config, key)
        if isinstance(number, float) and not isfinite(number):
            raise _misfit(backend, key, value, "Expected a finite number")
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise _misfit(backend, key, value, "Expected a number of 64 bits")
    return config


def _misfit(backend: type[MemoryBackend], key: str, value: object, reason: str) -> SettingError:
    text = str(value)
    quoted = text if len(text) <= _MAX_QUOTE else text[:_MAX_QUOTE] + "..."
    return SettingError(
        f"{backend.name}: {key}={quoted!r} does not fit: {reason}. "
        f"`memagent backends show {backend.name}` lists the settings."
    )
