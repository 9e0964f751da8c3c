"""Finding backends by name, reading their settings, and saying what each can do.

Backends are entry points of the group ``memagent.backends``; the built-in ones are too, so a package
of anyone's adds one with a module and a line in its ``pyproject.toml``.
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
_LONGEST_QUOTE = 80
CONTROL = "none"
"""The backend that remembers nothing: what an agent does with it, it does not owe to memory."""


SEPARATOR = "+"
"""Joins the names of several backends that are opened as one memory."""


@dataclass(frozen=True)
class Choice:
    """One backend with its settings.

    Attributes:
        settings: as they were typed, by field name.
        config: the same, checked and converted.
    """

    name: str
    backend: type[MemoryBackend]
    settings: Mapping[str, str]
    config: Any


@dataclass(frozen=True)
class Capabilities:
    """What a backend says that it can do; see the flags of ``MemoryBackend``."""

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
    """Names of all installed backends, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def get(name: str) -> type[MemoryBackend]:
    """Import a backend's class.

    Raises:
        NotFoundError: no installed package offers that name.
        MissingExtraError: the backend is there but a package it imports is not.
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
    """Return a backend's flags and needs."""
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


def choose(name: str, settings: Mapping[str, str]) -> list[Choice]:
    """Find the backend of a name, or the several that are joined by ``+``, with their settings.

    Args:
        settings: by field name; of several backends, as ``backend.field``.

    Raises:
        NotFoundError, SettingError, MissingExtraError: see ``get`` and ``configure``; or a backend is named twice.
    """
    parts = name.split(SEPARATOR)
    if len(set(parts)) < len(parts):
        raise SettingError(f"The memory {name!r} names a backend twice; expected different ones.")
    own: dict[str, dict[str, str]] = {part: {} for part in parts}
    for key, value in settings.items():
        part, dot, field = key.partition(".")
        if len(parts) == 1:
            own[name][key] = value
        elif dot and part in own:
            own[part][field] = value
        else:
            raise SettingError(
                f"The setting {key!r} names none of the backends of {name}; expected for instance {parts[0]}.abstain."
            )
    backends = {part: get(part) for part in parts}
    return [Choice(part, backends[part], own[part], configure(backends[part], own[part])) for part in parts]


def configure(backend: type[MemoryBackend], settings: Mapping[str, str]) -> Any:
    """Build a backend's config from ``key=value`` settings, converting each to its field's type.

    Raises:
        NotFoundError: no such setting.
        SettingError: the value does not fit the field, or is a number that is not finite or has more than 64 bits.
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
    quoted = text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."
    return SettingError(
        f"{backend.name}: {key}={quoted!r} does not fit: {reason}. "
        f"`memagent backends show {backend.name}` lists the settings."
    )
