"""Copies of the database: of one in use, put back, examined, and made before a migration."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from obt_server.storage import Enrolment
from obt_server.store import Database, SqlStorage, copies
from obt_server.store.copies import CopyFailed
from obt_server.store.tables import SCHEMA_VERSION
from tests.server.agent_double import uuid7
from tests.server.conftest import Command
from tests.server.enrolling import enrol
from tests.server.schemas import later_release


def made(path: Path, *names: str) -> None:
    """Make a database with agents of these names."""

    async def work() -> None:
        with contextlib.closing(Database.sqlite(path)) as opened:
            for name in names:
                enrolment = Enrolment(agent_id=uuid7(), name=name, version="1", secret_sha256=uuid7())
                await enrol(SqlStorage(opened), enrolment, 1.0)

    asyncio.run(work())


def names_in(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as opened:
        return [name for (name,) in opened.execute("select name from obt_agents order by name")]


class Writers:
    """Threads that write to a database all the time, on connections of their own.

    Each transaction writes two rows of one number: a copy that has one of them alone was torn.
    """

    def __init__(self, path: Path, count: int) -> None:
        with contextlib.closing(sqlite3.connect(path)) as opened:
            opened.execute("create table pairs (number integer, half integer, filler blob)")
        self._path = path
        self.committed: list[int] = []
        self._more = threading.Condition()
        self._stop = threading.Event()
        self._numbers = iter(range(1_000_000))
        self._threads = [threading.Thread(target=self._write, name=f"writer {n}") for n in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def until_more(self, count: int) -> None:
        """Wait for so many more transactions."""
        with self._more:
            wanted = len(self.committed) + count
            assert self._more.wait_for(lambda: len(self.committed) >= wanted, 60), "no writer got on"

    def _write(self) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=60)) as own:
            while not self._stop.is_set():
                number = next(self._numbers)
                with own:
                    own.execute("insert into pairs values (?, 1, zeroblob(2000))", (number,))
                    own.execute("insert into pairs values (?, 2, zeroblob(2000))", (number,))
                with self._more:
                    self.committed.append(number)
                    self._more.notify_all()


def test_a_backup_under_load_is_whole_as_of_one_moment_and_keeps_no_writer_waiting(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "obt.sqlite3", tmp_path / "copy.sqlite3"
    made(source, "box")
    steps = 0

    class Watched(sqlite3.Connection):
        """Lets writers get on between any two steps of the copy."""

        def backup(self, target: sqlite3.Connection, *, pages: int = -1, **_: object) -> None:
            super().backup(target, pages=pages, progress=self._step)

        def _step(self, *_: int) -> None:
            nonlocal steps
            steps += 1
            writers.until_more(2)

    def watched(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, factory=Watched)

    monkeypatch.setattr(copies, "_open", watched)
    monkeypatch.setattr(copies, "_PAGES_AT_ONCE", 16)
    # Open as a server has it.
    with contextlib.closing(Database.sqlite(source)), Writers(source, 3) as writers:
        writers.until_more(20)
        before = list(writers.committed)
        status, output, error = command("backup", str(target))
    assert (status, error) == (0, "")
    assert output == f"{target}: {target.stat().st_size} bytes\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert steps > 3, "the copy took several steps, and each waited for writers"
    with contextlib.closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as copy:
        assert copy.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert copy.execute("pragma journal_mode").fetchone() == ("delete",), "all of it is in one file"
        torn = "select number from pairs group by number having count(*) <> 2"
        assert copy.execute(torn).fetchall() == []
        kept = {number for (number,) in copy.execute("select distinct number from pairs")}
    assert set(before) <= kept, "what was committed before is in it"
    assert len(kept) < len(writers.committed), "and what came since is not"
    assert not list(tmp_path.glob("*copy*-wal")) + list(tmp_path.glob(".*partial")), "nothing lies around"


def test_a_backup_into_a_folder_has_the_time_in_its_name_and_the_newest_are_kept(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "obt.sqlite3", "box")
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "obt-server-notes.sqlite3").write_text("somebody's own")
    for day in (1, 2, 3, 4):
        monkeypatch.setattr(copies, "stamp", lambda day=day: f"2026010{day}T030000Z")
        assert command("backup", str(folder), "--keep", "2")[0] == 0
    found = sorted(path.name for path in folder.iterdir())
    assert found == [
        "obt-server-20260103T030000Z.sqlite3",
        "obt-server-20260104T030000Z.sqlite3",
        "obt-server-notes.sqlite3",
    ]
    status, _, error = command("backup", str(folder), "--keep", "2")
    assert (status, "exists already" in error) == (1, True)
    assert "--keep is for a folder" in command("backup", str(tmp_path / "x"), "--keep", "2")[2]


def test_a_backup_that_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no database" in command("backup", str(tmp_path / "x"))[2]
    made(tmp_path / "obt.sqlite3", "box")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    status, _, error = command("backup", str(tmp_path / "x"))
    assert (status, "has 1 MiB free" in error) == (1, True)
    monkeypatch.undo()
    (tmp_path / "obt.sqlite3").write_bytes(b"no database, though it is as long as the head of one" * 40)
    assert "cannot be copied" in command("backup", str(tmp_path / "x"))[2]
    assert not (tmp_path / "x").exists()
    assert list(tmp_path.glob(".*partial")) == []


def test_a_backup_comes_back_and_what_was_there_is_kept(tmp_path: Path, command: Command) -> None:
    path, backup = tmp_path / "obt.sqlite3", tmp_path / "backup.sqlite3"
    made(path, "first")
    assert command("backup", str(backup))[0] == 0
    made(path, "second")
    # A log of writes that no checkpoint has emptied: taken for the restored file's, it would destroy it.
    with contextlib.closing(sqlite3.connect(path)) as crashed:
        crashed.execute("pragma wal_autocheckpoint = 0")
        crashed.execute("update obt_agents set name = name || '-later'")
        crashed.commit()
        shutil.copy(f"{path}-wal", tmp_path / "kept-wal")
    shutil.copy(tmp_path / "kept-wal", f"{path}-wal")
    status, output, error = command("restore", str(backup))
    assert (status, error) == (0, "")
    (kept,) = tmp_path.glob("obt.sqlite3.before-restore-*Z")
    assert str(kept) in output
    assert names_in(path) == ["first"]
    assert names_in(kept) == ["first-later", "second-later"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made(path, "third")
    assert names_in(path) == ["first", "third"]
    assert names_in(backup) == ["first"]


def test_a_restore_refuses_while_a_server_has_the_database_open(tmp_path: Path, command: Command) -> None:
    path, backup = tmp_path / "obt.sqlite3", tmp_path / "backup.sqlite3"
    made(path, "first")
    assert command("backup", str(backup))[0] == 0
    made(path, "second")
    with contextlib.closing(Database.sqlite(path)), contextlib.closing(Database.sqlite(path)):
        status, _, error = command("restore", str(backup))
        assert (status, "stop the server first" in error) == (1, True)
    assert names_in(path) == ["first", "second"]
    with copies.exclusive(path), pytest.raises(copies.DatabaseInUse, match="restore"):
        Database.sqlite(path)
    assert command("restore", str(backup))[0] == 0


def test_a_restore_that_ends_on_the_way_leaves_no_start_an_empty_database(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, backup = tmp_path / "obt.sqlite3", tmp_path / "backup.sqlite3"
    made(path, "first")
    assert command("backup", str(backup))[0] == 0
    made(path, "second")
    rename = Path.rename

    def ends(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError("the power is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", ends)
    assert command("restore", str(backup))[0] == 1
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(CopyFailed, match=r"interrupted: run obt-server restore again.*restored-"):
        Database.sqlite(path)
    assert not path.exists()
    (kept,) = tmp_path.glob("*.before-restore-*")
    assert names_in(kept) == ["first", "second"]
    assert command("restore", str(backup))[0] == 0
    Database.sqlite(path).close()
    assert names_in(path) == ["first"]
    assert list(tmp_path.glob("*.resto*ed-*")) == list(tmp_path.glob("*.restoring-*")) == []


def test_a_copy_that_was_never_whole_keeps_no_start_from_making_a_database(
    tmp_path: Path, command: Command
) -> None:
    path, backup = tmp_path / "obt.sqlite3", tmp_path / "backup.sqlite3"
    made(path, "first")
    assert command("backup", str(backup))[0] == 0
    # As a kill leaves it, and somebody then moves the database elsewhere.
    copies.restoring(path).write_bytes(b"half")
    path.rename(tmp_path / "elsewhere.sqlite3")
    Database.sqlite(path).close()
    assert names_in(path) == []
    assert command("restore", str(backup))[0] == 0
    assert names_in(path) == ["first"]
    assert list(tmp_path.glob("*.restoring-*")) == []


def test_a_restore_refuses_what_is_no_backup_or_a_newer_releases(tmp_path: Path, command: Command) -> None:
    path, backup = tmp_path / "obt.sqlite3", tmp_path / "backup.sqlite3"
    made(path, "first")
    assert command("backup", str(backup))[0] == 0
    with contextlib.closing(sqlite3.connect(backup)) as newer, newer:
        newer.execute("update obt_revision set version_num = '0099'")
    assert "schema 99" in command("restore", str(backup))[2]
    other = tmp_path / "other.sqlite3"
    with contextlib.closing(sqlite3.connect(other)) as opened:
        opened.execute("create table something (x)")
    assert "is no backup" in command("restore", str(other))[2]
    assert "is no backup" in command("restore", str(tmp_path / "none"))[2]
    with contextlib.closing(sqlite3.connect(backup)) as back, back:
        back.execute("update obt_revision set version_num = ?", (f"{SCHEMA_VERSION:04}",))
        (page,) = back.execute("select rootpage from sqlite_master where name = 'obt_jobs'").fetchone()
        (size,) = back.execute("pragma page_size").fetchone()
    damaged = bytearray(backup.read_bytes())
    damaged[(page - 1) * size : page * size] = os.urandom(size)
    backup.write_bytes(damaged)
    status, _, error = command("restore", str(backup))
    assert (status, "damaged" in error or "cannot be copied" in error) == (1, True)
    assert names_in(path) == ["first"]
    assert [one.name for one in tmp_path.glob("*restor*")] == []


def test_check_says_what_is_wrong_with_a_database_or_that_nothing_is(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "obt.sqlite3"
    assert "is no database" in command("check")[2]
    made(path, "first", "second")
    status, output, _ = command("check")
    assert (status, "agents: 2" in output, "PROBLEM" in output) == (0, True, False)
    with contextlib.closing(sqlite3.connect(path)) as opened, opened:
        opened.execute("insert into obt_hardware values ('nobody', 'f', x'00', 1.0)")
    path.chmod(0o640)
    status, output, _ = command("check", "--json")
    assert status == 1
    assert "of obt_hardware points to nothing in obt_agents" in output
    assert "chmod 600" in output


def test_the_database_is_copied_before_it_is_brought_to_another_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "obt.sqlite3"
    made(path, "first")
    assert list(tmp_path.glob("*.schema-*")) == [], "a new one needs no copy"
    last = copies.KEPT_BEFORE_MIGRATION + 1
    for step in range(last + 1):
        later_release(monkeypatch, tmp_path / "later", *["pass"] * (step + 1))
        monkeypatch.setattr(copies, "stamp", lambda step=step: f"2026010{step + 1}T000000Z")
        Database.sqlite(path).close()
        Database.sqlite(path).close()
    found = sorted(tmp_path.glob("*.schema-*"), key=lambda one: one.name.rpartition("-")[2])
    assert len(found) == copies.KEPT_BEFORE_MIGRATION
    newest = found[-1]
    assert newest.name == f"obt.sqlite3.schema-{SCHEMA_VERSION + last}-2026010{last + 1}T000000Z"
    assert names_in(newest) == ["first"]
    assert copies.schema_of(newest) == SCHEMA_VERSION + last
    assert stat.S_IMODE(newest.stat().st_mode) == 0o600


def test_a_migration_without_room_for_the_copy_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "obt.sqlite3"
    made(path, "first")
    later_release(monkeypatch, tmp_path / "later", "pass")
    monkeypatch.setattr(copies, "SPARE_BYTES", 1 << 60)
    with pytest.raises(CopyFailed, match="make room"):
        Database.sqlite(path)
    assert copies.schema_of(path) == SCHEMA_VERSION
    with copies.exclusive(path):
        pass  # the refused start holds no lock
