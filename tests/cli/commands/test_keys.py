"""memagent keys."""

from __future__ import annotations

import json

from memagent.agent.home import Home
from memagent.agent.integrations.http.keys import KeyStore
from tests.cli.running import Run, run  # noqa: F401 - a fixture


def test_a_key_is_shown_once_listed_by_its_id_and_revoked(run: Run, home: Home) -> None:  # noqa: F811
    done = run("keys", "add", "--user", "ana")
    assert done.exit_code == 0
    key = done.stdout.decode().strip()
    record = KeyStore(home).find(key)
    assert record is not None
    assert record.user == "ana"
    assert b"not shown again" in done.stderr
    assert key.encode() not in done.stderr
    run("keys", "add", "--user", "webui", "--user-header", "X-OpenWebUI-User-Id")
    listed = run("keys", "list")
    assert key.encode() not in listed.stdout
    assert listed.stdout.count(b"\n") == 2
    entries = json.loads(run("keys", "list", "--output", "json").stdout)
    assert [entry["user"] for entry in entries] == ["ana", "webui"]
    assert "sha256" not in entries[0]
    assert run("keys", "revoke", record.id).exit_code == 0
    assert KeyStore(home).find(key) is None


def test_what_is_wrong_is_said(run: Run, home: Home) -> None:  # noqa: F811
    assert b"There are no keys" in run("keys", "list").stderr
    for arguments, message in (
        (("revoke", "1234"), b"There is no key '1234'"),
        (("add", "--user", " "), b"The user name is empty"),
        (("add", "--user-header", "a b"), b"no name of an HTTP header"),
    ):
        done = run("keys", *arguments)
        assert done.exit_code == 1
        assert message in done.stderr
        assert not done.stdout
    home.root.mkdir(exist_ok=True)
    (home.root / "keys.json").write_text("{", "utf-8")
    done = run("keys", "list")
    assert done.exit_code == 1
    assert b"cannot be read" in done.stderr
