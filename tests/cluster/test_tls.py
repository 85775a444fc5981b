"""PostgreSQL on another machine: over TCP with TLS, with a password that no argument and no line shows."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trustme

from obt_server.cli import main
from obt_server.store import Database
from obt_server.store.postgresql import DatabaseUnavailable
from tests.cluster.postgresql import USER, PostgreSQL
from tests.cluster.tls_postgresql import TlsPostgreSQL
from tests.server.process import server_process
from tests.waiting import until

PASSWORD = "correct-horse-7"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def postgres(authority: trustme.CA) -> Iterator[PostgreSQL]:
    with TlsPostgreSQL(authority.issue_cert("localhost"), PASSWORD) as one:
        yield one


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
def password_file(postgres: PostgreSQL, tmp_path: Path) -> Path:
    file = tmp_path / "pgpass"
    file.touch(0o600)
    file.write_text(f"localhost:{postgres.port}:*:{USER}:{PASSWORD}\n")
    return file


@pytest.fixture
def address(postgres: PostgreSQL, database: str, ca_file: Path) -> str:
    """Without a password."""
    name = database.partition("@/")[2].partition("?")[0]
    where = f"postgresql+psycopg://{USER}@localhost:{postgres.port}/{name}"
    return f"{where}?sslmode=verify-full&sslrootcert={ca_file}"


def refusal(address: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a person reads when a command cannot reach the database."""
    assert main(["tokens", "list", "--database", address]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n"), PASSWORD in shown.err) == ("", 1, False)
    return shown.err


async def test_a_server_reaches_it_with_tls_and_nobody_sees_the_password(
    address: str, password_file: Path, postgres: PostgreSQL
) -> None:
    async with server_process(f"{address}&passfile={password_file}") as server:
        mine = "from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'obt-server'"
        assert {ssl for (ssl,) in postgres.execute(f"select ssl {mine}")} == {True}
        process = psutil.Process(server.process.pid)
        shown = " ".join([*process.cmdline(), *process.environ().values()])
        assert "sslmode=verify-full" in shown
        assert PASSWORD not in shown
        # A connection that ends and comes again, which the log has.
        ended = postgres.execute(f"select pg_terminate_backend(pid) {mine}")
        assert ended != []
        await until(lambda: postgres.execute(f"select count(*) > 0 {mine}") == [(True,)])
    assert PASSWORD not in "".join([server.output, *server.later])


@pytest.mark.parametrize("variable", ["PGPASSWORD", "PGPASSFILE"])
def test_the_password_may_come_from_the_environment(
    address: str, password_file: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = PASSWORD if variable == "PGPASSWORD" else str(password_file)
    monkeypatch.setenv(variable, value)
    with contextlib.closing(Database.open(address)) as opened:
        assert opened.found_schema is None


def test_a_wrong_authority_name_or_password_and_no_tls_at_all_are_refused_in_one_line(
    address: str,
    ca_file: Path,
    password_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    assert "certificate verify failed" in refusal(address.replace(str(ca_file), str(other)), capsys)
    by_number = address.replace("localhost", "127.0.0.1")
    assert 'does not match host name "127.0.0.1"' in refusal(by_number, capsys)
    assert "no encryption" in refusal(address.replace("verify-full", "disable"), capsys)
    monkeypatch.setenv("PGPASSWORD", "wrong")
    assert "password authentication failed" in refusal(address, capsys)
    monkeypatch.delenv("PGPASSWORD")
    assert "no password supplied" in refusal(address, capsys)
    # libpq takes no file that others may read.
    password_file.chmod(0o644)
    with pytest.raises(DatabaseUnavailable, match="no password supplied"):
        Database.open(f"{address}&passfile={password_file}")
