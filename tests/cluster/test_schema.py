"""The schema on PostgreSQL: it agrees with the tables of this release, and changes when somebody says so."""

import contextlib
from pathlib import Path

import pytest

from obt_agent.errors import ConfigError
from obt_server.cli import main
from obt_server.store import Database, SchemaTooNew, copies, postgresql
from obt_server.store.address import parse
from obt_server.store.schema import TABLES, SchemaTooOld, differences
from obt_server.store.tables import SCHEMA_VERSION
from tests.cluster.postgresql import PostgreSQL
from tests.server.schemas import later_release

OLD = Path(__file__).with_name("old_databases")


def name_of(address: str) -> str:
    return address.partition("@/")[2].partition("?")[0]


def found_differences(address: str) -> list[str]:
    url = parse(address)
    assert not isinstance(url, Path)
    engine = postgresql.postgresql_engine(url)
    try:
        with engine.connect() as connection:
            return differences(connection)
    finally:
        engine.dispose()


def test_a_new_database_has_the_tables_of_this_release(database: str, postgres: PostgreSQL) -> None:
    Database.open(database).close()
    assert found_differences(database) == []
    postgres.execute("alter table obt_agents drop column given_name", name_of(database))
    postgres.execute("drop index obt_results_accepted", name_of(database))
    assert len(found_differences(database)) == 2, "the comparison sees columns and indexes"


@pytest.mark.parametrize("version", [8, 9])
def test_an_older_database_gets_the_tables_of_this_release_and_keeps_its_rows(
    database: str, postgres: PostgreSQL, version: int
) -> None:
    postgres.execute((OLD / f"schema-{version}.sql").read_text(), name_of(database))
    counting = "select count(*) from "
    known = postgres.execute("select relname from pg_class where relkind = 'r'", name_of(database))
    tables = [table.name for table in TABLES if (table.name,) in known]
    before = {name: postgres.execute(counting + name, name_of(database)) for name in tables}
    with contextlib.closing(Database.open(database, upgrade=True)) as opened:
        assert opened.found_schema == version
    assert found_differences(database) == []
    assert before == {name: postgres.execute(counting + name, name_of(database)) for name in tables}
    assert all(rows[0] != (0,) for rows in before.values()), "each table has a row"


def test_the_index_keeps_a_job_from_having_two_results_whoever_writes(
    database: str, postgres: PostgreSQL
) -> None:
    Database.open(database).close()
    row = "('a', 'j', '{}', true, 1.0, '')"
    postgres.execute(
        "insert into obt_agents values ('a','a',null,'',0,null,'','','',1,1,null,null)", name_of(database)
    )
    insert = "insert into obt_results (agent_id, job_id, sha256, accepted, stored_at, text) values "
    postgres.execute(insert + row.format("1"), name_of(database))
    with pytest.raises(Exception, match="obt_results_accepted"):
        postgres.execute(insert + row.format("2"), name_of(database))


def test_an_older_schema_is_changed_by_migrate_alone(
    database: str,
    postgres: PostgreSQL,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Database.open(database).close()
    adding = "op.execute('ALTER TABLE obt_agents ADD COLUMN later TEXT')"
    newest = later_release(monkeypatch, tmp_path / "later", adding)
    monkeypatch.setattr("obt_server.cli.migrate.SCHEMA_VERSION", newest)
    with pytest.raises(SchemaTooOld, match=r"pg_dump.*obt-server migrate"):
        Database.open(database)
    assert main(["migrate", "--check", "--database", database]) == 1
    assert main(["migrate", "--database", database]) == 0
    assert f"schema {SCHEMA_VERSION} brought to {newest}" in capsys.readouterr().out
    Database.open(database).close()
    monkeypatch.undo()
    with pytest.raises(SchemaTooNew, match=f"schema {newest}"):
        Database.open(database)
    columns = postgres.execute(
        "select count(*) from information_schema.columns where column_name = 'later'",
        name_of(database),
    )
    assert columns == [(1,)]


def test_commands_for_files_say_what_to_use_instead(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, instead in (
        (["backup", "/tmp/x"], "pg_dump --format=custom"),  # noqa: S108 - never written
        (["restore", "/tmp/x"], "pg_restore --clean"),  # noqa: S108 - the same
        (["check"], "obt-server migrate --check"),
    ):
        assert main([*words, "--database", database]) == 2
        error = capsys.readouterr().err
        assert (instead in error, "postgresql://obt@" in error, error.count("\n")) == (True, True, 1)


def test_the_commands_that_open_the_database_work_on_it(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBT_SERVER_DATABASE", database)
    assert main(["tokens", "join", "--note", "rack"]) == 0
    assert main(["tokens", "list"]) == 0
    assert "rack" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql+psycopg://ann:secret@db/obt", "holds a password"),
        ("postgresql+psycopg://ann@db/obt?password=secret", "holds a password"),
        ("postgresql+psycopg://ann@db/", "no address"),
        ("mysql://ann@db/obt", "no address"),
        ("sqlite://", "no address"),
    ],
)
def test_an_address_that_is_none_is_refused_with_the_remedy(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        parse(address)
    assert "secret" not in refused.value.message
    assert parse("sqlite:////var/obt") == Path("/var/obt")
    assert copies.schema_of(Path("/nowhere")) is None
