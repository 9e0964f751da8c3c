"""memagent export, import, backup, accept-loss: what is done with a journal as a file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import InputError
from memagent.cli.opening import home, open_journal, require_user
from memagent.cli.options import (
    DEFAULT_USER,
    UserOption,
    YesOption,
)
from memagent.cli.rendering.output import confirm, json_file, say, write
from memagent.cli.rendering.phrases import quantity

if TYPE_CHECKING:
    from memagent.agent.journal.export import ExportResult

_SQLITE_HEADER = b"SQLite format 3\0"


def export(
    file: Annotated[str, typer.Argument(help="Where to write; - is standard output.")],
    user: UserOption = DEFAULT_USER,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Verify an export or a backup, instead of writing one."),
    ] = False,
) -> None:
    """Write all turns of a user to a file of JSON lines, with the digests that verify them.

    Examples:

      memagent export backup.jsonl

      memagent export --verify backup.jsonl
    """
    from memagent.agent.journal.export import export as export_

    if verify:
        _verify(file, user)
        return
    with open_journal(user) as journal:
        if file == "-":
            _say_missing(export_(journal, json_file()))
            return
        target = Path(file)
        if not target.name:
            raise InputError(f"{file!r} names no file to write to.")
        partial = target.with_name(target.name + ".part")
        try:
            with partial.open("w", encoding="utf-8", newline="\n") as out:
                export_result = export_(journal, out)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(target)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise InputError(f"{file} cannot be written: {error.strerror}.") from error
    say(f"Wrote {quantity(export_result.turns, 'turn')} to {file}.")
    _say_missing(export_result)


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write; the file must not exist yet.")],
    user: UserOption = DEFAULT_USER,
) -> None:
    """Copy a user's journal, a SQLite database, also while it is in use: a plain copy of the file would lack turns.

    To restore it while nothing uses the memory: replace the file that this command names, remove the files beside it
    that end in -wal and -shm, and accept the loss of later turns (memagent accept-loss).

    Examples:

      memagent backup journal-2026-11-25.sqlite3

      memagent export --verify journal-2026-11-25.sqlite3
    """
    with open_journal(user) as journal:
        try:
            journal.backup(file)
        except FileExistsError as error:
            raise InputError(f"{file} exists already; give a new name. Nothing was written.") from error
        except OSError as error:
            raise InputError(f"{file} cannot be written: {error.strerror}.") from error
        turns = journal.count()
        source = journal.where
    say(f"Wrote {quantity(turns, 'turn')} of {source} to {file}.")


def accept_loss(
    user: UserOption = DEFAULT_USER,
    yes: YesOption = False,
) -> None:
    """Continue with a journal that has lost turns, when there is no backup to restore.

    The evidence of later turns, as numbers and digests, is moved to a folder named lost-<time> beside the journal.
    Stored memories that hold later turns are removed, and rebuilt when they are next used.

    Example:

      memagent accept-loss --user ana
    """
    from memagent.agent.memory.loss import accept_loss as accept
    from memagent.agent.memory.loss import examine_loss

    require_user(home(), user)
    loss = examine_loss(home(), user)
    if loss is None:
        write("No loss was found: the journal holds all turns that its mark and the stored memories record.")
        return
    if loss.journal:
        write(f"The journal cannot be used: {loss.journal}")
    elif loss.reached is not None:
        write(f"The journal reaches turn {loss.reached.seq:,} and forgetting {loss.reached.forgetting:,}.")
    for claim in loss.claims:
        write(
            f"{claim.claimant} recorded turns up to {claim.extent.seq:,} and forgettings up to {claim.extent.forgetting:,}."
        )
    if not yes and not confirm("Continue without the lost turns?"):
        raise typer.Abort
    _, evidence = accept(home(), user)
    write(f"Done. The evidence of the lost turns is in {evidence}.")


def _verify(file: str, user: str) -> None:
    """Verify an export, or a backup of the database."""
    from tempfile import gettempdir

    from memagent.agent.journal import Journal
    from memagent.agent.journal.export import open_source, prove

    with open_source(Path(file), Path(gettempdir())) as (source, _):
        source.file.seek(0)
        if source.file.read(len(_SQLITE_HEADER)) != _SQLITE_HEADER:
            proof = prove(source)
            contents = f"{quantity(proof.turns, 'turn')} and {quantity(proof.forgettings, 'forgetting')}"
            if proof.ended:
                write(f"{file} is complete: {contents}, head {proof.head.hex()}.")
            else:
                write(f"{file} can be read: {contents}. Its format {proof.format} has no digests to verify.")
            return
    with Journal(Path(file), user, read_only=True) as journal:
        faults = journal.audit()
        if faults:
            raise InputError(f"{file} is damaged. {' '.join(faults)}")
        extent = journal.extent()
        contents = (
            f"{quantity(journal.count(), 'turn')} and {quantity(extent.forgetting, 'forgetting')} of {user}"
        )
        write(f"{file} is complete: {contents}, head {extent.head}.")


def _say_missing(export_result: ExportResult) -> None:
    """Say how many turns the export lacks, and end the command with exit code 1, if any are missing."""
    if export_result.missing:
        say(
            f"The journal lacks {quantity(export_result.missing, 'turn')} that were not forgotten; the export holds what is there. "
            "`memagent doctor` says more."
        )
        raise typer.Exit(1)
