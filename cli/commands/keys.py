"""memagent keys."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.cli.opening import home
from memagent.cli.options import DEFAULT_USER, Output, OutputOption, UserOption
from memagent.cli.rendering.output import as_json, say, write

if TYPE_CHECKING:
    from memagent.agent.integrations.http.keys import KeyStore

app = typer.Typer(help="The keys of `memagent serve`: which key opens whose memory.", no_args_is_help=True)


@app.command("add")
def add(
    user: UserOption = DEFAULT_USER,
    user_header: Annotated[
        str | None,
        typer.Option(
            "--user-header",
            metavar="NAME",
            help="The key is of a program that serves many people and names each in this header, such as "
            "X-OpenWebUI-User-Id. Their memories are those of USER/VALUE.",
        ),
    ] = None,
) -> None:
    """Make a key for a user's memory, and print it. It is shown this once: only its SHA-256 is stored.

    Examples:

      memagent keys add --user ana

      memagent keys add --user openwebui --user-header X-OpenWebUI-User-Id
    """
    key, record = _store().add(user, user_header)
    whose = f"{user}/VALUE, for each value of {user_header}" if user_header else user
    say(f"Key {record.id} opens the memory of {whose}. Keep it: it is not shown again.")
    write(key)


@app.command("list")
def list_(output: OutputOption = Output.TEXT) -> None:
    """List the keys by their ids, with their users. The keys themselves are not stored."""
    records = _store().records()
    if output is Output.JSON:
        as_json(
            [
                {name: value for name, value in asdict(record).items() if name != "sha256"}
                for record in records
            ]
        )
        return
    if not records:
        say("There are no keys. `memagent keys add` makes one.")
    for record in records:
        header = f"  header {record.user_header}" if record.user_header else ""
        write(f"{record.id}  {record.created_at[:10]}  {record.user}{header}")


@app.command("revoke")
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `memagent keys list` shows it.")],
) -> None:
    """Revoke a key. A server that runs refuses it from its next request on."""
    record = _store().revoke(id_)
    write(f"Revoked key {record.id} of {record.user}.")


def _store() -> KeyStore:
    from memagent.agent.integrations.http.keys import KeyStore

    return KeyStore(home())
