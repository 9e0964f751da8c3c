"""What a person sets once for all commands: the environment wins over the settings file, and both over defaults."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import PlainValidator, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from memagent.agent import settings_file
from memagent.agent.models.catalogue import DEFAULT_EMBEDDER, DEFAULT_MODEL
from memagent.agent.settings_file import Key, Scalar
from memagent.backends.errors import SettingError

_LOG = logging.getLogger("memagent")
_PREFIX = "MEMAGENT_"
_TABLE = "backends"
_MAX_QUOTE = 80

Channel = Literal["auto", "text", "model", "both"]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text in quotes")  # noqa: TRY004 - pydantic reports no TypeError
    return value


def _scalar_text(value: object) -> str:
    """Return a backend's setting as the text that ``--set`` takes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError("expected text, a number, true or false")


Text = Annotated[str, PlainValidator(_text)]
ScalarText = Annotated[str, PlainValidator(_scalar_text)]


class UserSettings(BaseSettings):
    """The settings of one person on one machine. Build it with ``load`` or ``from_environment``.

        settings = UserSettings.load()
        home = Home.from_settings(settings)
        agent = Agent.open(user=settings.user, model=settings.model, embedder=settings.embedder, home=home)

    Each field is a key of the settings file and, in capitals after ``MEMAGENT_``, an environment variable.

    Attributes:
        user: whose memory is used.
        backend: the memory that is used.
        model: the chat model, as after ``--model``.
        embedder: the embedder, as after ``--embedder``.
        channel: how memory reaches the model.
        home: the folder of journals and stored memories; None: the platform's user data folder.
        models: the folder of fetched models; None: the platform's user cache folder.
        journal: the URL of a database that several machines share; None: one SQLite file for each user.
        backends: for each backend its settings by name, as text. Variable: ``MEMAGENT_BACKENDS__RAG__ABSTAIN``.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    user: Text = "default"
    backend: Text = "rag"
    model: Text = DEFAULT_MODEL
    embedder: Text = DEFAULT_EMBEDDER
    channel: Channel = "auto"
    home: Text | None = None
    models: Text | None = None
    journal: Text | None = None
    backends: dict[str, dict[str, ScalarText]] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the arguments, which are the settings file's values."""
        return env_settings, init_settings

    @classmethod
    def load(cls) -> Self:
        """Read the environment and the settings file.

        Raises:
            SettingError: a value is unknown or does not fit, or the file cannot be used; names file and line, or variable.
        """
        path = settings_file.settings_path()
        text = settings_file.read_text(path)
        values = settings_file.parse(text, path)
        _check_file(values, path, text)
        return cls._build(values, path, text)

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment only, as programs that use the library do.

        Raises:
            SettingError: a variable does not fit.
        """
        return cls._build({}, None, "")

    @classmethod
    def _build(cls, values: Mapping[str, Any], path: Path | None, text: str) -> Self:
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            raise _misfit(tuple(map(str, first["loc"])), first, path, text) from error
        except SettingsError as error:
            raise SettingError(f"An environment variable MEMAGENT_* cannot be read: {error}.") from error

    def backend_settings(self, backend: str) -> dict[str, str]:
        """Return what the file and the environment set for a backend, by setting.

        Args:
            backend: a name, or several joined by ``+``; then each setting stands behind its backend's name: ``rag.k``.
        """
        from memagent.backends.registry import SEPARATOR

        names = backend.split(SEPARATOR)
        return {
            f"{name}.{setting}" if len(names) > 1 else setting: value
            for name in names
            for setting, value in self.backends.get(name, {}).items()
        }

    def values(self) -> dict[Key, str | None]:
        """Return every value by its key, those of backends last."""
        return dict(_flat(self.model_dump()))


def environment_keys() -> frozenset[Key]:
    """Return the keys that environment variables set.

    Raises:
        SettingError: a variable does not fit.
    """
    UserSettings.from_environment()
    return frozenset(key for key, _ in _flat(EnvSettingsSource(UserSettings)()))


def file_keys() -> frozenset[Key]:
    """Return the keys that the settings file sets."""
    path = settings_file.settings_path()
    return frozenset(key for key, _ in _flat(settings_file.parse(settings_file.read_text(path), path)))


def variable(key: Key) -> str:
    """Return the environment variable of a key: ``MEMAGENT_USER``, ``MEMAGENT_BACKENDS__RAG__ABSTAIN``."""
    return _PREFIX + "__".join(key).upper()


def parse_key(name: str) -> Key:
    """Read a key as a person writes it: ``user`` or ``backends.rag.abstain``.

    Raises:
        SettingError: there is no such key; says which there are.
    """
    key = tuple(name.split("."))
    if key[0] == _TABLE and len(key) == 3 and all(key):
        return key
    if key == (_TABLE,) or key[0] not in UserSettings.model_fields or len(key) > 1:
        raise SettingError(_unknown(name))
    return key


def parse_value(key: Key, text: str) -> Scalar:
    """Read a value as a person writes it, and check that its key takes it.

    Args:
        key: as ``parse_key`` returns it.
        text: the value.

    Returns:
        the value as the settings file holds it; paths are made absolute.

    Raises:
        SettingError, NotFoundError, MissingExtraError: the value does not fit, or its backend does not exist.
    """
    if not text.strip():
        raise SettingError(f"The value is empty. `memagent config unset {'.'.join(key)}` removes a setting.")
    if key[0] == _TABLE:
        from memagent.backends import registry

        config = registry.configure(registry.get(key[1]), {key[2]: text})
        value = getattr(config, key[2])
        return value if isinstance(value, bool | float | int) else text
    if key[0] in ("home", "models"):
        text = str(Path(text).expanduser().absolute())
    if key[0] == "embedder":
        from memagent.agent.models.embedding import load_embedder

        load_embedder(Path(), text, notify=_LOG.info)  # refuses an unknown name; loads nothing
    if key[0] == "backend":
        from memagent.backends import registry

        registry.choose(text, {})
    if key[0] == "journal":
        from memagent.agent.journal.url import check_journal_url

        check_journal_url(text)
    if key[0] == "channel" and text not in get_args(Channel):
        raise SettingError(f"channel={_quoted(text)} does not fit: expected {', '.join(get_args(Channel))}.")
    return text


def _flat(values: Mapping[str, Any], table: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*table, name))
        else:
            yield (*table, name), value


def _check_file(values: Mapping[str, Any], path: Path, text: str) -> None:
    """Refuse what only a file can get wrong: relative paths, and backends that are not installed."""
    for name in ("home", "models"):
        value = values.get(name)
        if isinstance(value, str) and not Path(value).expanduser().is_absolute():
            raise SettingError(
                f"{_place((name,), path, text)}: expected a full path, which means the same in every folder, "
                f"got {_quoted(value)}."
            )
    tables = values.get(_TABLE)
    backends: dict[Key, str] = {}
    if isinstance(tables, Mapping):
        backends = {(_TABLE, name): name for name in tables}
    if isinstance(values.get("backend"), str):
        backends[("backend",)] = values["backend"]
    if backends:
        from memagent.backends import registry

        installed = registry.names()
        for key, joined in backends.items():
            unknown = [name for name in joined.split(registry.SEPARATOR) if name not in installed]
            if unknown:
                name = unknown[0]
                raise SettingError(
                    f"{_place(key, path, text)}: no installed package offers the backend {_quoted(name)}."
                    f"{_suggestion(name, installed)}"
                )


def _misfit(key: Key, detail: Mapping[str, Any], path: Path | None, text: str) -> SettingError:
    """Return the error for a value that does not fit, from the first of pydantic's details."""
    own = key[:3] if key[0] == _TABLE else key[:1]
    from_environment = any(name[: len(own)] == own for name, _ in _flat(EnvSettingsSource(UserSettings)()))
    if path is None or from_environment:
        return SettingError(f"{variable(own)}={_quoted(detail['input'])} does not fit: {_reason(detail)}.")
    place = _place(own, path, text)
    if detail["type"] == "extra_forbidden":
        return SettingError(f"{place}: {_unknown('.'.join(own))}")
    return SettingError(f"{place}: {_quoted(detail['input'])} does not fit: {_reason(detail)}.")


def _reason(detail: Mapping[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ").replace("a valid dictionary", "a table")
    return message.replace("Input should be ", "expected ")


def _place(key: Key, path: Path, text: str) -> str:
    line = settings_file.line_of(text, key)
    return f"{path}{'' if line is None else f', line {line}'}: {'.'.join(key)}"


def _unknown(name: str) -> str:
    keys = [*(field for field in UserSettings.model_fields if field != _TABLE), f"{_TABLE}.NAME.SETTING"]
    return f"there is no setting {_quoted(name)}.{_suggestion(name, keys)} Known: {', '.join(keys)}."


def _suggestion(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_QUOTE else text[:_MAX_QUOTE] + "..."
