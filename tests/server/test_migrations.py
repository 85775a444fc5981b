"""Older databases, from the first schema on, become what this release makes anew, and lose nothing."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_server.rollout_storage import ChangeFilter
from obt_server.saved_plans import hash_of
from obt_server.store import Database, OperatorStore, SchemaTooNew, SqlStorage
from obt_server.store.schema import TABLES, differences
from obt_server.store.sqlite import sqlite_engine
from obt_server.store.tables import SCHEMA_VERSION
from tests.server.conftest import Command
from tests.server.schemas import OLD, later_release, make_old, rows_of


def found_differences(path: Path) -> list[str]:
    engine = sqlite_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            return differences(connection)
    finally:
        engine.dispose()


def test_a_new_database_has_the_tables_of_this_release(tmp_path: Path) -> None:
    Database.sqlite(tmp_path / "obt.sqlite3").close()
    assert found_differences(tmp_path / "obt.sqlite3") == []
    with contextlib.closing(sqlite3.connect(tmp_path / "obt.sqlite3")) as db:
        db.execute("alter table obt_agents drop column given_name")
        db.execute("drop index obt_results_accepted")
    assert len(found_differences(tmp_path / "obt.sqlite3")) == 2, "the comparison sees columns and indexes"


@pytest.mark.parametrize("version", [1, 7, 8, 9])
def test_an_older_database_gets_the_tables_of_this_release_and_keeps_its_rows(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "obt.sqlite3"
    make_old(path, version)
    before = rows_of(path)
    Database.sqlite(path).close()
    assert found_differences(path) == []
    after = rows_of(path)
    assert {one.name for one in TABLES} == set(after)
    assert after["obt_revision"] == {repr({"version_num": f"{SCHEMA_VERSION:04}"})}
    for name in before.keys() - {"obt_schema", "obt_revision"}:
        # A column that came later stands behind those that were there.
        kept = {one.removesuffix("}") for one in before[name]}
        assert len(after[name]) == len(kept), name
        assert all(any(row.startswith(one) for row in after[name]) for one in kept), name
    (copy,) = tmp_path.glob(f"obt.sqlite3.schema-{version}-*")
    assert rows_of(copy) == before
    assert sum(map(len, before.values())) >= (37 if version == SCHEMA_VERSION - 1 else 10)


async def test_an_agent_of_the_first_schema_can_be_renamed_labelled_and_lists_models(tmp_path: Path) -> None:
    path = tmp_path / "obt.sqlite3"
    make_old(path, 1)
    with contextlib.closing(Database.sqlite(path)) as opened:
        storage = SqlStorage(opened)
        (agent,) = await storage.agents()
        assert (await storage.rename_agent(agent.id, "rack-1")).name == "rack-1"
        assert (await storage.label_agent(agent.id, ("lab",))).own_labels == ()
        models = [InstalledModel(name="a:1", digest="d", size_bytes=1)]
        await storage.save_models(agent.id, models, OllamaState(reachable=True), 1.0)
        assert await storage.model_changes(ChangeFilter()) == [], "its first list is compared with nothing"
        token = await OperatorStore(opened).valid_token("t" * 64, 2.0)
        assert token is not None
        assert (token.scope, token.machines, token.models) == ("operator", (), ())
        assert await storage.result(agent.id, "j1") == b'{"one":1}'


async def test_plans_of_an_older_database_are_the_first_versions(tmp_path: Path) -> None:
    path, plan = tmp_path / "obt.sqlite3", b'{"num_iterations":3}'
    make_old(path, 7)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("drop table obt_plan_versions")
        db.execute("create table obt_plans (name varchar primary key, plan blob, saved_at float)")
        db.execute("insert into obt_plans values ('mine', ?, 7.0)", (plan,))
        db.execute("update obt_schema set version = 6")
        db.commit()
    with contextlib.closing(Database.sqlite(path)) as opened:
        (saved,) = await SqlStorage(opened).plans()
    assert (saved.name, saved.version, saved.plan, saved.saved_at) == ("mine", 1, plan, 7.0)
    assert saved.hash == hash_of(plan)


def test_of_two_accepted_results_the_one_that_the_job_names_stays(tmp_path: Path) -> None:
    path = tmp_path / "obt.sqlite3"
    make_old(path, 7)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("update obt_results set accepted = 1")
        db.execute("update obt_jobs set sha256 = ? where job_id = 'j1'", ("2" * 64,))
        db.commit()
    Database.sqlite(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        kept = db.execute("select sha256, accepted from obt_results order by id").fetchall()
        assert kept == [("1" * 64, 0), ("2" * 64, 1)]
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("update obt_results set accepted = 1")


def test_a_newer_schema_is_refused_and_older_releases_refuse_this_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "obt.sqlite3"
    for made_by in (None, 7):
        path.unlink(missing_ok=True)
        if made_by is not None:
            make_old(path, made_by)
        Database.sqlite(path).close()
        with contextlib.closing(sqlite3.connect(path)) as db:
            # Those releases know 7, and refuse a higher one.
            assert db.execute("select version from obt_schema").fetchall() == [(8,)]
            db.execute("update obt_revision set version_num = '0099'")
            db.commit()
        with pytest.raises(SchemaTooNew, match="schema 99"):
            Database.sqlite(path)


def test_a_file_whose_numbers_were_made_by_an_older_sqlalchemy_is_as_it_should_be(tmp_path: Path) -> None:
    path = tmp_path / "obt.sqlite3"
    Database.sqlite(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        (doubles,) = db.execute("select count(*) from sqlite_master where sql like '% DOUBLE%'").fetchone()
        assert doubles > 10
        db.execute("pragma writable_schema = on")
        db.execute("update sqlite_master set sql = replace(sql, ' DOUBLE', ' FLOAT')")
        db.commit()
    assert found_differences(path) == []


def test_a_revision_that_fails_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "obt.sqlite3"
    make_old(path, 7)
    before = rows_of(path)
    later_release(monkeypatch, tmp_path / "later", "raise OSError('the disk')")
    with pytest.raises(OSError, match="the disk"):
        Database.sqlite(path)
    assert rows_of(path) == before
    newest = later_release(monkeypatch, tmp_path / "later", 'op.execute("DELETE FROM obt_rollouts")')
    Database.sqlite(path).close()
    Database.sqlite(path).close()
    assert rows_of(path)["obt_revision"] == {repr({"version_num": f"{newest:04}"})}
    assert rows_of(path)["obt_rollouts"] == set()


def test_migrate_says_what_it_would_do_and_does_it(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "obt.sqlite3"
    assert "there is no database" in command("migrate", "--check")[2]
    make_old(path, 7)
    before = rows_of(path)
    status, output, _ = command("migrate", "--check")
    assert (status, f"schema 7; this release has {SCHEMA_VERSION}" in output) == (1, True)
    assert rows_of(path) == before
    assert f"schema 7 brought to {SCHEMA_VERSION}" in command("migrate")[1]
    assert "nothing to do" in command("migrate")[1]
    assert command("migrate", "--check")[0] == 0
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("drop index obt_results_accepted")
    status, output, _ = command("migrate", "--check")
    assert (status, "PROBLEM: " in output, "obt_results_accepted" in output) == (1, True, True)


def test_each_old_database_is_one_of_a_release() -> None:
    assert sorted(one.name for one in OLD.iterdir()) == [f"schema-{number}.sql" for number in (1, 7, 8, 9)]


async def test_a_text_that_postgresql_cannot_hold_is_refused_here_too(tmp_path: Path) -> None:
    with contextlib.closing(Database.sqlite(tmp_path / "obt.sqlite3")) as opened:
        storage = SqlStorage(opened)
        with pytest.raises(Exception, match="NUL character") as refused:
            await storage.create_join_token("a", note="b\0", agent_id=None, at=1.0, expires_at=2.0)
        assert refused.type.__mro__[1].__name__ == "InvalidParams"
        await asyncio.sleep(0)
        assert await storage.join_tokens() == []
