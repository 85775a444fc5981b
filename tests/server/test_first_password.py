"""The first operator's password from a file: when it is read, what is refused, and that it opens."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from obt_server.auth.operators import Operators
from obt_server.cli import main
from obt_server.cli.first_password import given_first_password, make_first_operator
from obt_server.cli.options import UsageError
from obt_server.store import Database, OperatorStore
from tests.server.process import server_process

PASSWORD = "correct horse battery"


def password_file(folder: Path, text: str | bytes = PASSWORD + "\n", mode: int = 0o600) -> Path:
    file = folder / "first"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(mode)
    return file


@pytest.fixture
def operators(tmp_path: Path) -> Iterator[Operators]:
    with contextlib.closing(Database.sqlite(tmp_path / "obt.sqlite3")) as database:
        yield Operators(OperatorStore(database))


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (PASSWORD, 0o604, "can be read by every user of this machine: chmod o= "),
        ("short", 0o600, "a password has 10 to 1024 characters"),
        ("", 0o600, "a password has 10 to 1024 characters"),
        ("x" * 5000, 0o600, "a password has 10 to 1024 characters"),
        ("two long lines\nof a password\n", 0o600, "has several lines, expected a password on one"),
        (b"\xff\xfe" * 8, 0o600, "is no text in UTF-8"),
    ],
)
async def test_a_file_that_holds_no_password_is_refused_without_repeating_it(
    tmp_path: Path, operators: Operators, text: str | bytes, mode: int, problem: str
) -> None:
    file = password_file(tmp_path, text, mode)
    with pytest.raises(UsageError) as caught:
        await given_first_password(operators, file)
    assert str(file) in str(caught.value)
    assert problem in str(caught.value)
    assert not text or str(text) not in str(caught.value)


async def test_a_file_that_is_missing_is_refused_at_the_first_start_alone(
    tmp_path: Path, operators: Operators
) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        await given_first_password(operators, tmp_path / "first")
    await operators.create_first("ann", PASSWORD)
    assert await given_first_password(operators, tmp_path / "first") is None


async def test_the_password_is_neither_shown_nor_changed_later(
    tmp_path: Path, operators: Operators, capsys: pytest.CaptureFixture[str]
) -> None:
    file = password_file(tmp_path)
    given = await given_first_password(operators, file)
    assert given == PASSWORD
    await make_first_operator(operators, given, file)
    shown = capsys.readouterr().out
    assert f"sign in as admin with the password in {file}" in shown
    assert PASSWORD not in shown
    assert (await operators.sign_in("admin", PASSWORD, "127.0.0.1")).operator == "admin"
    # Another start, with another file: the operator's password is the operator's.
    await make_first_operator(operators, "another password", file)
    assert capsys.readouterr().out == ""
    assert (await operators.sign_in("admin", PASSWORD, "127.0.0.1")).operator == "admin"


class Ending(Operators):
    """Ends where a start may end: when the operator is made, or just before."""

    made = True

    async def create_first(self, name: str, password: str | None = None) -> str | None:
        if self.made:
            await super().create_first(name, password)
        raise OSError("the power is gone")


@pytest.mark.parametrize("made", [True, False])
async def test_a_start_that_ends_on_the_way_loses_no_password(
    tmp_path: Path,
    operators: Operators,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    made: bool,
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    ending = Ending(operators.store)
    ending.made = made
    with pytest.raises(OSError, match="power"):
        await make_first_operator(ending, None, None)
    assert bool(await operators.store.names()) is made
    await make_first_operator(operators, None, None)
    assert f"with the password in {state}/first-password" in capsys.readouterr().out
    (file,) = state.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (await operators.sign_in("admin", file.read_text().strip(), "127.0.0.1")).operator == "admin"
    # Read and removed: no later start makes another.
    file.unlink()
    await make_first_operator(operators, None, None)
    assert (list(state.iterdir()), capsys.readouterr().out) == ([], "")


async def test_of_two_first_starts_at_once_one_writes_its_password(
    tmp_path: Path, operators: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    await asyncio.gather(*(make_first_operator(operators, None, None) for _ in range(2)))
    (file,) = state.iterdir()
    assert (await operators.sign_in("admin", file.read_text().strip(), "127.0.0.1")).operator == "admin"


@pytest.mark.slow
async def test_a_server_started_with_such_a_file_is_opened_by_its_password(tmp_path: Path) -> None:
    file = password_file(tmp_path)
    async with server_process(tmp_path / "db", "--first-password-file", str(file)) as server:
        assert PASSWORD not in server.output
        async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as http:
            answer = await http.post("/api/v1/session", json={"password": PASSWORD})
            assert answer.status_code == 200
    file.unlink()
    async with server_process(tmp_path / "db", "--first-password-file", str(file)) as server:
        assert "First start" not in server.output


def test_a_start_that_cannot_make_its_operator_ends_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("run", "--port", "0", "--database", str(tmp_path / "db"), "--first-password-file")
    assert main([*words, str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line
        == f"obt-server: The first password's file {tmp_path}/none cannot be read: No such file or directory."
    )
