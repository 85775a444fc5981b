"""``tokens join --ensure-file``: a file holds a join token, and never one more than somebody asked for."""

import asyncio
import contextlib
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from obt_server.auth.secrets import sha256
from obt_server.cli import main
from obt_server.storage import Enrolment, JoinToken
from obt_server.store import Database, SqlStorage
from tests.server.agent_double import uuid7

PIN, OTHER_PIN = (f"sha256-{letter * 43}" for letter in "AB")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "join-token"


def stored(tmp_path: Path, work: Callable[[SqlStorage], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        with contextlib.closing(Database.sqlite(tmp_path / "obt.sqlite3")) as database:
            return await work(SqlStorage(database))

    return asyncio.run(run())


def ensure(tmp_path: Path, *more: str) -> int:
    place = ("--database", str(tmp_path / "obt.sqlite3"))
    return main(["tokens", "join", "--ensure-file", str(tmp_path / "join-token"), *more, *place])


def secret(file: Path) -> str:
    return file.read_text().strip().partition(".")[0]


def tokens(tmp_path: Path) -> list[JoinToken]:
    found: list[JoinToken] = stored(tmp_path, lambda storage: storage.join_tokens())
    return found


def test_the_token_is_in_the_file_for_its_owner_alone_and_not_printed(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ensure(tmp_path, "--note", "here") == 0
    shown = capsys.readouterr()
    assert secret(file).startswith("obtj_")
    assert secret(file) not in shown.out + shown.err
    assert f"{file} has a new join token" in shown.out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.note for one in tokens(tmp_path)] == ["here"]
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("obt.")} == {file.name}


def test_one_that_can_be_used_stays(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ensure(tmp_path)
    before = file.read_text()
    assert ensure(tmp_path) == 0
    assert "stays as it is: its join token is valid until" in capsys.readouterr().out
    assert (file.read_text(), len(tokens(tmp_path))) == (before, 1)


def test_one_that_was_used_stays_also_when_its_time_is_over(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(tmp_path)
    agent = uuid7()
    enrolment = Enrolment(agent_id=agent, name="pc", version="1", secret_sha256="s")
    stored(tmp_path, lambda storage: storage.enroll(sha256(secret(file)), enrolment, time.time()))
    before, now = file.read_text(), time.time()
    monkeypatch.setattr("obt_server.cli.tokens.time.time", lambda: now + 90_000)
    assert ensure(tmp_path) == 0
    assert f"stays as it is: its join token was used by {agent}" in capsys.readouterr().out
    assert (file.read_text(), len(tokens(tmp_path))) == (before, 1)
    # Whoever wants another machine in says so.
    file.unlink()
    assert ensure(tmp_path) == 0
    assert len(tokens(tmp_path)) == 2


@pytest.mark.parametrize("fate", ["expired", "revoked", "unknown", "another key"])
def test_one_that_lets_nobody_in_gives_way(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    stored(tmp_path, lambda storage: storage.keep_join_pins((PIN,)))
    ensure(tmp_path)
    before, now = secret(file), time.time()
    if fate == "expired":
        monkeypatch.setattr("obt_server.cli.tokens.time.time", lambda: now + 3601)
    elif fate == "revoked":
        stored(tmp_path, lambda storage: storage.revoke_join_token(1, now))
    elif fate == "unknown":
        file.write_text("obtj_of-another-server")
    else:
        stored(tmp_path, lambda storage: storage.keep_join_pins((OTHER_PIN,)))
    assert ensure(tmp_path) == 0
    assert secret(file) not in {before, "obtj_of-another-server"}
    assert file.read_text().strip().endswith(OTHER_PIN if fate == "another key" else PIN)
    newest = stored(tmp_path, lambda storage: storage.join_token(sha256(secret(file))))
    assert newest is not None
    assert newest.used_at is None


def test_a_file_that_others_can_read_is_refused(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("obtj_of-somebody")
    file.chmod(0o644)
    assert ensure(tmp_path) == 2
    assert f"chmod o= {file}" in capsys.readouterr().err
    assert tokens(tmp_path) == []
    file.unlink()
    (tmp_path / "folder").write_text("no folder")
    words = ("tokens", "join", "--ensure-file", str(tmp_path / "folder" / "join"))
    assert main([*words, "--database", str(tmp_path / "obt.sqlite3")]) == 1
