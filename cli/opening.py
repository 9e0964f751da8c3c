"""Opening what a command works on: the home, a journal, a chat model, a memory with its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from memagent.backends.errors import InputError, NotFoundError, SettingError, in_a_line
from memagent.cli.options import DEFAULT_BACKEND, chosen_embedder, user_settings
from memagent.cli.rendering.frontend import Frontend, standard_error

if TYPE_CHECKING:
    from memagent.agent.home import Home
    from memagent.agent.journal import Journal
    from memagent.agent.memory import Memory
    from memagent.agent.memory.forgetting import OpenBeside
    from memagent.agent.models.chat import ChatModel
    from memagent.agent.models.models import Models


def parse_pairs(pairs: list[str] | None) -> dict[str, str]:
    """Read the ``key=value`` pairs of ``--set``.

    Raises:
        InputError: a pair has no ``=``.
    """
    values: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: expected KEY=VALUE, for instance --set abstain=false.")
        values[key.strip()] = value
    return values


def backend_settings(backend: str, pairs: list[str] | None) -> dict[str, str]:
    """Return a backend's settings, checked: those of ``--set`` over those of the environment and the settings file.

    Raises:
        NotFoundError, SettingError, InputError: the backend or a setting does not exist, or a value does not fit.
    """
    from memagent.backends import registry

    settings = parse_pairs(pairs)
    registry.choose(backend, settings)
    return {**_lasting_settings(backend), **settings}


def home() -> Home:
    """Return the folders that the environment and the settings file name."""
    from memagent.agent.home import Home

    return Home.from_settings(user_settings())


def shared_models(frontend: Frontend | None = None) -> Models:
    """Return the models of this installation.

    Args:
        frontend: how fetching reports to the person; None: on standard error.
    """
    return models_in(home().models, chosen_embedder(), frontend or standard_error())


@cache
def models_in(folder: Path, embedder: str, frontend: Frontend) -> Models:
    """Return the models of a folder; each is loaded once.

    Args:
        folder: where fetched models are kept.
        embedder: the embedder's name.
        frontend: how fetching reports to the person.
    """
    from memagent.agent.models.models import Models

    return Models.shared(folder, embedder, notify=frontend.notify, report=frontend.report)


def load_model(name: str | None, frontend: Frontend | None = None) -> ChatModel:
    """Load a chat model once: for the conversation, and for a memory that works inside it.

    Args:
        name: as after ``--model``; None: as the settings say.
        frontend: as in ``shared_models``.
    """
    return shared_models(frontend).chat(name or user_settings().model)


def fetch_models(
    *backends: str, model: str | None, chat: bool = False, frontend: Frontend | None = None
) -> None:
    """Fetch and verify the models that backends need, before a lock is taken: a download may take minutes.

    Args:
        backends: names; those that are not installed are passed over.
        model: as after ``--model``; None: as the settings say.
        chat: whether the chat model is needed even if no backend works inside it.
        frontend: as in ``shared_models``.
    """
    from memagent.backends import registry

    installed = set(registry.names())
    needs = frozenset(
        need
        for name in backends
        if installed.issuperset(name.split(registry.SEPARATOR))
        for need in registry.needs(name)
    )
    shared_models(frontend).fetch(
        needs | ({"local_model"} if chat else set()), model or user_settings().model
    )


def open_memory(
    user: str,
    backend: str,
    pairs: list[str] | None = None,
    *,
    model: str | None = None,
    stored: Mapping[str, str] | None = None,
    frontend: Frontend | None = None,
    **options: object,
) -> Memory:
    """Open a memory that reports to the person what it does.

    Args:
        user: whose memory it is.
        backend: its name.
        pairs: of ``--set``.
        model: the chat model's name, for memories that work inside it; None: as the settings say.
        stored: settings as a stored state names them, in place of all others.
        frontend: how it reports; None: on standard error.
        options: see ``Memory.open``. One that takes the lock itself has its models fetched first.
    """
    from memagent.agent.memory.composition import open_memory as open_

    frontend = frontend or standard_error()
    return open_(
        home(),
        shared_models(frontend),
        user,
        backend,
        backend_settings(backend, pairs) if stored is None else stored,
        model=model or user_settings().model,
        notify=frontend.notify,
        progress=frontend.progress,
        **options,
    )


def open_beside(user: str, model: str | None) -> OpenBeside:
    """Return what opens a user's stored memories as they are, so that they can forget.

    The models they need are fetched now, before any of their locks is taken.
    """
    fetch_models(*home().backends_of(user), model=model)
    return lambda backend, stored, lock: open_memory(
        user, backend, model=model, stored=stored, lock=lock, strict=True, follow=False
    )


def expand_backends(names: list[str] | None) -> list[str]:
    """Return the backends that ``--backend`` names, each once: all of them for ``all``, rag for nothing.

    Raises:
        NotFoundError: a name does not exist.
    """
    from memagent.backends import registry

    unique = list(dict.fromkeys(names or [DEFAULT_BACKEND]))
    for name in unique:
        if name != "all":
            registry.needs(name)
    return registry.names() if "all" in unique else unique


def choose_backends(names: list[str] | None, pairs: list[str] | None) -> dict[str, dict[str, str]]:
    """Read ``--backend`` (several, or ``all``) and ``--set``: the settings of each backend, checked.

    With several backends a setting names its own: ``rag.abstain=false``. Backends' settings in the environment and the
    settings file are left out, so that measurements do not depend on who runs them.

    Raises:
        NotFoundError, SettingError, InputError: a name or a setting does not exist or does not fit.
    """
    from memagent.backends import registry

    by_backend: dict[str, dict[str, str]] = {name: {} for name in expand_backends(names)}
    for key, value in parse_pairs(pairs).items():
        backend, dot, field = key.partition(".")
        if dot and backend in by_backend:
            by_backend[backend][field] = value
        elif len(by_backend) == 1 and (not dot or registry.SEPARATOR in next(iter(by_backend))):
            next(iter(by_backend.values()))[key] = value
        else:
            raise _unclear(key, value, field if dot else key, list(by_backend))
    for name, settings in by_backend.items():
        registry.choose(name, settings)
    return by_backend


def open_journal(user: str, *, read_only: bool = True) -> Journal:
    """Open the journal of a user who has one.

    Args:
        user: their name.
        read_only: an older journal is brought up to date all the same, where it can be written.

    Raises:
        NotFoundError: nobody by that name has said anything here.
    """
    from memagent.agent.journal.schema import OutdatedSchemaError
    from memagent.agent.memory import open_journal as open_

    folders = home()
    require_user(folders, user)
    try:
        return open_(folders, user, read_only=read_only)
    except OutdatedSchemaError:
        return open_(folders, user)


def require_user(folders: Home, user: str) -> None:
    """Refuse a user without a journal, so that a mistyped name does not look like an empty memory.

    Raises:
        NotFoundError: the user has no journal, and no other traces of one.
    """
    if folders.journal_url is not None or _has_journal(folders, user):
        return
    folder = folders.user_folder(user)
    known = [name for name in folders.users() if _has_journal(folders, name)]
    hint = f"The folder {in_a_line(str(folder))} is there, but holds no journal. " if folder.exists() else ""
    raise NotFoundError("user", user, known, f"{hint}`memagent chat --user NAME` begins a new one.")


def _has_journal(folders: Home, user: str) -> bool:
    """Return whether a user has a journal, or had one."""
    return folders.journal_file(user).exists() or folders.mark_file(user).exists()


def _lasting_settings(backend: str) -> dict[str, str]:
    """Return what the environment and the settings file set for a backend, checked."""
    from memagent.backends import registry

    settings = user_settings().backend_settings(backend)
    try:
        registry.choose(backend, settings)
    except (NotFoundError, SettingError) as error:
        raise SettingError(
            f"[backends.{backend}] of the settings file, or of the environment: {error} "
            "`memagent config show` says where each value comes from."
        ) from error
    return settings


def _unclear(key: str, value: str, field: str, backends: list[str]) -> InputError:
    """Return the error for a setting that names none of the chosen backends; it says how to write it."""
    from memagent.backends import registry

    single = [name for name in backends if registry.SEPARATOR not in name]
    matching = [name for name in single if field in {own.name for own in fields(registry.get(name).Config)}]
    if not matching:
        return InputError(f"--set {key}={value}: none of {', '.join(backends)} has a setting {field!r}.")
    example = f"--set {matching[0]}.{field}={value}"
    return InputError(f"--set {key}={value}: say which of the backends is meant, as in {example}.")
