"""Errors of the libraries that store a memory, as memagent's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from memagent.backends.errors import CheckpointError, MemagentError, StorageError
from memagent.backends.protocol import MemoryBackend

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Method = Callable[Arguments, Result]


def comes_from(error: BaseException, modules: Collection[str]) -> bool:
    """Return whether an error's class is defined, or the error was raised, in one of these top-level modules.

    A library that failed halfway may raise anything: on a full disk, Chroma's client raises ``AttributeError``.
    """
    if type(error).__module__.split(".")[0] in modules:
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, Exception):
        return False
    return str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0] in modules


def translate_errors(
    backend: str, modules: Collection[str]
) -> Callable[[Method[Arguments, Result]], Method[Arguments, Result]]:
    """Return a decorator that turns errors of storage libraries into ``StorageError``.

    Args:
        backend: the memory's name, for the message.
        modules: top-level modules of the libraries, for instance ``{"sqlite3"}``.

    Returns:
        A decorator of methods. Errors of memagent and of other modules pass unchanged.
    """

    def decorate(method: Method[Arguments, Result]) -> Method[Arguments, Result]:
        @wraps(method)
        def call(*args: Arguments.args, **named: Arguments.kwargs) -> Result:
            try:
                return method(*args, **named)
            except MemagentError:
                raise
            except BaseException as error:
                if not comes_from(error, modules):
                    raise
                raise StorageError(
                    f"The stores of the memory {backend} failed: {error}. The journal is kept apart from them, and the "
                    "memory reads there what it lacks when it is next used. If the disk is full or cannot be written, "
                    f"mend that first; if it is not, `memagent backends rebuild {backend}` makes the memory anew."
                ) from error

        return call

    return decorate


@contextmanager
def closed_after_errors(backend: MemoryBackend, modules: Collection[str]) -> Iterator[None]:
    """Close a backend if reading its stored state fails.

    Args:
        backend: what the state is read into.
        modules: top-level modules of the storage libraries.

    Raises:
        CheckpointError: in place of an error of these libraries; all others pass unchanged.
    """
    try:
        yield
    except BaseException as error:
        backend.close()
        if comes_from(error, modules):
            raise CheckpointError(f"its content cannot be used ({error})") from error
        raise


def check_counts(counts: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Compare what a stored state holds with the counts stored beside it.

    Raises:
        CheckpointError: they differ.
    """
    if counts != expected:
        raise CheckpointError(f"it holds {counts}, expected {expected}")
