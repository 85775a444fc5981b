"""``obt-server copy``: everything arrives as it was, or nothing."""

import contextlib
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, select

from obt_server.cli import main
from obt_server.store import Database, OperatorStore, SqlStorage, postgresql
from obt_server.store.transfer import BYTES_AT_ONCE, COPIED
from tests.cluster.postgresql import PostgreSQL
from tests.cluster.test_schema import name_of
from tests.server.schemas import make_old


def contents(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """By table: all rows, as Python sees them."""
    try:
        with engine.connect() as connection:
            found = {table.name: connection.execute(select(table)).mappings() for table in COPIED}
            return {name: sorted((dict(row) for row in rows), key=repr) for name, rows in found.items()}
    finally:
        engine.dispose()


def made(path: Path) -> None:
    """A database of an older release with rows in each table, brought up to date; some are hard to copy."""
    make_old(path, 7)
    Database.sqlite(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        odd = [
            0.1 + 0.2,
            1700000000.123456789,
            math.nextafter(1e9, 2e9),
            5e-324,
            1.7976931348623157e308,
            -0.0,
        ]
        agent = "insert into obt_agents values (?,?,null,'',?,null,'[]','[]','[]',?,?,null,null,null)"
        rows = [
            (f"odd-{n}", f"é{n} \U0001f600 'x' \\ %", (1 << 63) - 1 - n, at, at) for n, at in enumerate(odd)
        ]
        db.executemany(agent, rows)
        columns = "agent_id, job_id, sha256, accepted, stored_at, text"
        result = f"insert into obt_results ({columns}) values (?,?,?,?,?,?)"  # noqa: S608 - no text of others
        db.execute(result, ("odd-0", "large", "s", 1, 1.0, bytes(range(256)) * 40_000))
        db.executemany(result, [("odd-1", f"j{n}", "s", 0, 1.0, b"") for n in range(1200)])
        db.execute("insert into obt_former_agents values ('0190-9', ?)", ((1 << 63) - 1,))
        db.execute("update sqlite_sequence set seq = 77 where name = 'obt_credentials'")
        db.commit()


async def test_each_row_of_each_table_arrives_as_it_was(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "obt.sqlite3"
    made(path)
    assert main(["copy", "--from", f"sqlite:///{path}", "--to", database]) == 0
    output = capsys.readouterr().out
    before, after = contents(create_engine(f"sqlite:///{path}")), contents(create_engine(database))
    assert after == before
    assert repr(after) == repr(before), "-0.0 is equal to 0.0, and another one"
    assert {name for name, rows in before.items() if not rows} == set()
    assert "results: 1203" in output
    with contextlib.closing(Database.open(database)) as opened:
        storage = SqlStorage(opened)
        followed = next(one for one in await storage.credentials() if one.state != "revoked")
        assert await storage.add_candidate(followed.id, "new")
        assert max(one.id for one in await storage.credentials()) == 78, "numbers are never given twice"
        assert (await storage.result("0190-0", "j1")) == b'{"one":1}'
        token = await OperatorStore(opened).valid_token("t" * 64, 3.0)
        assert token is not None


def test_nothing_is_copied_into_a_database_that_is_not_empty_nor_from_one_in_use(
    tmp_path: Path, database: str, postgres: PostgreSQL, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "obt.sqlite3"
    words = ["copy", "--from", str(path), "--to", database]
    assert (main(words), "is no database" in capsys.readouterr().err) == (1, True)
    make_old(path, 7)
    assert (main(words), "obt-server migrate first" in capsys.readouterr().err) == (1, True)
    with contextlib.closing(Database.sqlite(path)):
        assert (main(words), "stop the server first" in capsys.readouterr().err) == (1, True)
    Database.open(database).close()
    postgres.execute("insert into obt_model_sets values ('mine', '')", name_of(database))
    assert (main(words), "not empty: obt_model_sets has 1 rows" in capsys.readouterr().err) == (1, True)
    assert postgres.execute("select count(*) from obt_agents", name_of(database)) == [(0,)]
    assert (
        main([*words[:3], "--to", str(path)]),
        "from SQLite to PostgreSQL" in capsys.readouterr().err,
    ) == (2, True)


def test_a_row_that_cannot_be_copied_leaves_the_target_empty(
    tmp_path: Path, database: str, postgres: PostgreSQL, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "obt.sqlite3"
    make_old(path, 7)
    Database.sqlite(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("update obt_api_tokens set name = 'a' || char(0)")
        db.commit()
    assert main(["copy", "--from", str(path), "--to", database]) == 1
    assert "obt_api_tokens has a text with a NUL" in capsys.readouterr().err
    assert postgres.execute("select count(*) from obt_agents", name_of(database)) == [(0,)]


async def test_what_servers_know_of_each_other_stays_with_the_database(tmp_path: Path, database: str) -> None:
    path = tmp_path / "obt.sqlite3"
    made(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("update obt_agents set replica = 'r1'")
        db.commit()
    with contextlib.closing(Database.sqlite(path)) as opened:
        before = await SqlStorage(opened).beat("r1", lead=True)
    assert main(["copy", "--from", f"sqlite:///{path}", "--to", database]) == 0
    with contextlib.closing(Database.open(database)) as opened:
        storage = SqlStorage(opened)
        assert {agent.replica for agent in await storage.agents()} == {None}
        after = await storage.beat("r2", lead=True)
    assert (after.leader, after.epoch, set(after.replicas)) == ("r2", 1, {"r2"})
    assert after.cluster != before.cluster


FETCHED = list[int]()
"""Bytes of each fetch from SQLite."""


class CountingCursor(sqlite3.Cursor):
    """Notes how much each fetch brings into memory."""

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return self._noted(super().fetchmany(size))

    def fetchall(self) -> list[Any]:
        return self._noted(super().fetchall())

    def _noted(self, rows: list[Any]) -> list[Any]:
        FETCHED.append(sum(len(value) for row in rows for value in row if isinstance(value, bytes)))
        return rows


class CountingConnection(sqlite3.Connection):
    """Its cursors count, whoever asks for them."""

    def cursor(self, factory: Any = CountingCursor) -> Any:
        return super().cursor(factory)


def test_no_more_than_one_large_row_is_fetched_at_once(tmp_path: Path, database: str) -> None:
    path = tmp_path / "obt.sqlite3"
    made(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        columns = "agent_id, job_id, sha256, accepted, stored_at, text"
        result = f"insert into obt_results ({columns}) values ('odd-2',?,'s',0,1.0,zeroblob(?))"  # noqa: S608 - no text of others
        db.executemany(result, [(f"j{n}", BYTES_AT_ONCE // 4) for n in range(6)])
        largest = db.execute("select max(length(text)) from obt_results").fetchone()[0]
        db.commit()

    def counting(dialect: Any, record: Any, arguments: Any, words: dict[str, Any]) -> None:
        del record, arguments
        if dialect.name == "sqlite":
            words["factory"] = CountingConnection

    FETCHED.clear()
    event.listen(Engine, "do_connect", counting)
    try:
        assert main(["copy", "--from", str(path), "--to", database]) == 0
    finally:
        event.remove(Engine, "do_connect", counting)
    assert max(FETCHED) == largest


def test_a_target_in_use_and_a_row_that_it_refuses_are_said(
    tmp_path: Path,
    database: str,
    postgres: PostgreSQL,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "obt.sqlite3"
    made(path)
    words = ["copy", "--from", str(path), "--to", database]
    Database.open(database).close()
    monkeypatch.setattr(postgresql, "LOCK_S", 1)
    other = create_engine(database)
    with other.begin() as connection:
        connection.exec_driver_sql("lock table obt_plan_versions in row exclusive mode")
        assert (main(words), "the target is in use: stop" in capsys.readouterr().err) == (1, True)
    other.dispose()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("delete from obt_agents where id = 'odd-0'")
        db.commit()
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "a row of obt_results cannot be copied" in said
    assert "odd-0" not in said, "no value of a row: some are hashes of secrets"
    assert postgres.execute("select count(*) from obt_agents", name_of(database)) == [(0,)]


def test_reading_may_take_as_long_as_it_does(tmp_path: Path, database: str) -> None:
    path = tmp_path / "obt.sqlite3"
    made(path)
    found = set[Any]()

    def look(connection: Connection, cursor: Any, statement: str, *more: Any) -> None:
        del cursor, more
        if connection.dialect.name == "postgresql" and statement.startswith("INSERT INTO obt_results "):
            found.add(connection.exec_driver_sql("show idle_in_transaction_session_timeout").scalar())

    event.listen(Engine, "before_cursor_execute", look)
    try:
        assert main(["copy", "--from", str(path), "--to", database]) == 0
    finally:
        event.remove(Engine, "before_cursor_execute", look)
    assert found == {"0"}
