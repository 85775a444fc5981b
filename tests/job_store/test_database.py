"""The store in SQLite: durable states, one final, tombstones, migrations, damage."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from obt_agent.errors import ConfigError, NotPermitted, StorageFailed, StorageFull
from obt_agent.jobs.store.database import MAX_CANCEL_MARKS, JobDatabase
from obt_agent.jobs.store.read_only import StoreReading
from obt_agent.jobs.store.rows import FinalText, fingerprint
from obt_agent.jobs.store.schema import MIGRATIONS, VERSION
from obt_agent.protocol.commands import PullModelParams
from obt_agent.protocol.errors import to_wire
from tests.job_store.doubles import new_job


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


@pytest.fixture
def db(path: Path) -> Iterator[JobDatabase]:
    database = JobDatabase(path)
    yield database
    database.close()


def finish(db: JobDatabase, job_id: str, text: bytes = b"{}", now: float = 3.0) -> bool:
    return db.finish(job_id, "completed", FinalText.of(text), None, now)


def test_a_job_is_found_again_by_another_process(db: JobDatabase, path: Path) -> None:
    db.accept(new_job("j", params=b'{"a":1}', not_after=9.0), 1.0)
    again = JobDatabase(path)
    job = again.get("j")
    assert job is not None
    assert (job.state, job.kind, job.params, job.not_after) == ("accepted", "benchmark", b'{"a":1}', 9.0)
    assert again.store_id == db.store_id
    again.close()


def test_writing_waits_for_the_disk(db: JobDatabase, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as probe, probe:
        assert probe.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db._db.execute("PRAGMA synchronous").fetchone()[0] == 2, "FULL"  # noqa: SLF001 - a connection's own setting
    assert db._db.execute("PRAGMA cache_size").fetchone()[0] == -256, "KiB"  # noqa: SLF001 - as above
    probe.close()


def test_states_go_forward_only(db: JobDatabase) -> None:
    db.accept(new_job(), 1.0)
    assert db.queue("j")
    assert not db.queue("j")
    assert db.start("j", 2.0)
    assert db.start("j", 5.0), "a job goes on after a crash"
    job = db.get("j")
    assert job is not None
    assert (job.state, job.starts, job.started_at) == ("running", 2, 2.0)
    assert finish(db, "j")
    assert not db.start("j", 6.0)


def test_the_first_final_stands(db: JobDatabase) -> None:
    db.accept(new_job(), 1.0)
    assert finish(db, "j", b'{"first":1}')
    assert not finish(db, "j", b'{"second":2}')
    final = db.result("j")
    assert final is not None
    assert final.text == b'{"first":1}'


def test_records_come_back_in_order_and_go_with_the_final(db: JobDatabase) -> None:
    db.accept(new_job("j"), 1.0)
    db.accept(new_job("k"), 1.0)
    for body in (b"one", b"two", b"three"):
        db.add_record("j", body)
    db.add_record("k", b"other")
    assert db.records("j") == [b"one", b"two", b"three"]
    finish(db, "j")
    assert db.records("j") == []
    assert db.records("k") == [b"other"]


@pytest.mark.parametrize("size", [2, 24 << 10, (24 << 10) + 1, 300_000])
def test_a_result_is_kept_exactly_and_compressed_when_it_is_large(db: JobDatabase, size: int) -> None:
    text = b'"' + "é€𝄞x".encode() * (size // 10) + b'"'
    db.accept(new_job(), 1.0)
    finish(db, "j", text)
    final = db.result("j")
    assert final is not None
    assert final.text == text
    assert final.encoding == ("gzip" if len(text) > 24 << 10 else "identity")
    if final.encoding == "gzip":
        assert len(final.stored) < len(text) / 10


def test_only_the_same_hash_settles_a_result(db: JobDatabase) -> None:
    db.accept(new_job(), 1.0)
    finish(db, "j")
    assert not db.acknowledge("j", "0" * 64, 100.0, conflict=False)
    assert [job.job_id for job in db.waiting()] == ["j"]
    job = db.get("j")
    assert job is not None
    assert job.sha256 is not None
    assert db.acknowledge("j", job.sha256, 100.0, conflict=False)
    assert db.waiting() == []
    assert db.result("j") is None
    tombstone = db.get("j")
    assert tombstone is not None
    assert (tombstone.acknowledged, tombstone.state) == (True, "completed")


def test_a_conflicting_result_is_set_aside_not_lost(db: JobDatabase) -> None:
    db.accept(new_job(), 1.0)
    finish(db, "j", b'{"mine":1}')
    sha256 = FinalText.of(b'{"mine":1}').sha256
    assert db.acknowledge("j", sha256, 100.0, conflict=True)
    assert db.waiting() == []
    final = db.result("j")
    assert final is not None
    assert final.text == b'{"mine":1}'


def test_tombstones_go_90_days_after_acknowledgement_by_both_clocks(db: JobDatabase) -> None:
    day = 86_400.0
    for job_id, server_time in (("early", 0.0), ("late", 10 * day), ("untimed", None)):
        db.accept(new_job(job_id), 1.0)
        finish(db, job_id)
        db.acknowledge(job_id, FinalText.of(b"{}").sha256, server_time, conflict=False)
    db.accept(new_job("waits"), 1.0)
    finish(db, "waits", now=1.0)
    assert db.expire(0.0, 500.0, 90 * day) == 0
    assert db.expire(90 * day - 1, 500.0 + 90 * day, 90 * day) == 0
    assert db.expire(90 * day, 499.0 + 90 * day, 90 * day) == 0
    assert db.expire(90 * day, 500.0 + 90 * day, 90 * day) == 2
    assert db.get("early") is None
    assert db.expire(10_000 * day, 10_000 * day, 90 * day) == 1
    assert [job.job_id for job in db.waiting()] == ["waits"], "what nobody acknowledged never goes"


@pytest.mark.parametrize(
    ("server_times", "local_times"),
    [
        ((100.0, 100.0 + 91 * 86_400, 200.0), (5.0, 6.0, 7.0)),
        ((1.0, 2.0, 3.0), (5.0, 5.0 + 91 * 86_400, 7.0)),
    ],
    ids=["the server's clock", "this machine's clock"],
)
def test_one_clock_that_is_wrong_once_leaves_the_tombstones(
    db: JobDatabase, server_times: tuple[float, ...], local_times: tuple[float, ...]
) -> None:
    db.accept(new_job(), 1.0)
    finish(db, "j")
    db.acknowledge("j", FinalText.of(b"{}").sha256, 0.5, conflict=False)
    assert [db.expire(*times, 90 * 86_400) for times in zip(server_times, local_times, strict=True)] == [
        0,
        0,
        0,
    ]
    assert db.get("j") is not None, "a repeated start must not run again"


def test_the_mark_of_a_cancelled_job_turns_a_late_start_into_its_final(db: JobDatabase) -> None:
    db.mark_cancelled("j", 1.0)
    mark = db.get("j")
    assert mark is not None
    assert (mark.kind, mark.state) == (None, "cancelled")
    assert db.waiting() == db.open_jobs() == db.unsettled() == []
    db.accept_cancelled(new_job("j"), FinalText.of(b'{"x":1}'), 2.0)
    job = db.get("j")
    assert job is not None
    assert (job.kind, job.state, job.acknowledged) == ("benchmark", "cancelled", False)
    assert [job.job_id for job in db.waiting()] == ["j"]


def test_a_mark_never_replaces_a_job(db: JobDatabase) -> None:
    db.accept(new_job("j"), 1.0)
    db.mark_cancelled("j", 2.0)
    job = db.get("j")
    assert job is not None
    assert job.state == "accepted"


def test_marks_are_bounded_and_the_oldest_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CANCEL_MARKS == 4096
    monkeypatch.setattr("obt_agent.jobs.store.database.MAX_CANCEL_MARKS", 3)
    db = JobDatabase(path)
    db.accept(new_job("real"), 1.0)
    for number in range(5):
        db.mark_cancelled(f"m{number}", 1.0)
    assert [db.get(f"m{number}") is not None for number in range(5)] == [False, False, True, True, True]
    assert db.get("real") is not None
    db.close()


def test_the_owner_may_drop_a_result_and_its_tombstone_stays(db: JobDatabase) -> None:
    db.accept(new_job(), 1.0)
    assert not db.drop("j")
    finish(db, "j")
    assert db.drop("j")
    assert db.waiting() == []
    assert db.get("j") is not None


def test_an_error_is_stored_as_it_will_be_sent(db: JobDatabase) -> None:
    error = to_wire(NotPermitted("No.", policy_key="policy.models.deny"))
    db.accept(new_job(), 1.0)
    db.finish("j", "failed", FinalText.of(b"{}"), error, 2.0)
    job = db.get("j")
    assert job is not None
    assert job.error == error
    assert job.summary().error == error
    db.failed_upload("j")
    again = db.get("j")
    assert again is not None
    assert again.attempts == 1


def test_reservations_are_those_of_open_jobs(db: JobDatabase) -> None:
    db.accept(new_job("a", reserve=100), 1.0)
    db.accept(new_job("b", reserve=10), 1.0)
    assert db.reserved_bytes() == 110
    assert db.reserved_bytes(without="a") == 10
    finish(db, "a")
    assert db.reserved_bytes() == 10


def test_a_store_of_the_first_version_is_migrated_with_all_that_it_holds(path: Path) -> None:
    old = sqlite3.connect(path)
    old.executescript(MIGRATIONS[0] + "PRAGMA user_version = 1;")
    old.execute("INSERT INTO meta VALUES ('store_id', 'the-old-store')")
    old.execute(
        "INSERT INTO jobs (job_id, kind, state, params, fingerprint, accepted_at, finished_at, bytes, sha256,"
        " result) VALUES ('j', 'pull', 'completed', x'7b7d', 'f', 1.0, 2.0, 2, 'abc', x'7b7d')"
    )
    old.execute("INSERT INTO records VALUES ('k', 0, x'01')")
    old.commit()
    old.close()
    db = JobDatabase(path)
    job = db.get("j")
    assert db.store_id == "the-old-store"
    assert job is not None
    assert (job.kind, job.attempts, job.conflict) == ("pull", 0, False)
    assert [job.job_id for job in db.waiting()] == ["j"]
    assert db.records("k") == [b"\x01"]
    db.close()
    with contextlib.closing(sqlite3.connect(path)) as probe, probe:
        assert probe.execute("PRAGMA user_version").fetchone()[0] == VERSION
    probe.close()


def test_a_store_of_a_later_version_is_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as later, later:
        later.execute(f"PRAGMA user_version = {VERSION + 1}")
    later.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="later version"):
        JobDatabase(path)
    assert path.read_bytes()[:100] == before[:100]


@pytest.mark.parametrize("damage", ["not a database", "header", "page"])
def test_a_damaged_store_is_set_aside_and_a_new_one_begun(path: Path, damage: str) -> None:
    first = JobDatabase(path)
    for number in range(40):
        first.accept(new_job(f"j{number}", params=b"x" * 3000), 1.0)
    store_id = first.store_id
    first._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001 - so that the damage meets the file
    first.close()
    content = bytearray(path.read_bytes())
    match damage:
        case "not a database":
            content = bytearray(b"this is no database at all" * 400)
        case "header":
            content[:100] = b"\0" * 100
        case "page":
            content[4096:16384] = b"\xff" * 12288
    path.write_bytes(content)
    db = JobDatabase(path)
    assert db.set_aside is not None
    assert db.set_aside.read_bytes() == bytes(content)
    assert db.store_id != store_id
    assert db.unsettled() == []
    db.accept(new_job("new"), 1.0)
    db.close()


def test_a_full_disk_is_storage_full_and_changes_nothing(db: JobDatabase) -> None:
    db.accept(new_job("j"), 1.0)
    pages = db._db.execute("PRAGMA page_count").fetchone()[0]  # noqa: SLF001 - SQLite's own way to a full disk
    db._db.execute(f"PRAGMA max_page_count = {pages}")  # noqa: SLF001 - as above
    with pytest.raises(StorageFull, match="free some disk"):
        db.finish("j", "completed", FinalText.of(b'"' + b"x" * 20_000 + b'"'), None, 2.0)
    job = db.get("j")
    assert job is not None
    assert job.state == "accepted"
    db._db.execute("PRAGMA max_page_count = 1000000")  # noqa: SLF001 - as above
    assert finish(db, "j")


def test_a_folder_that_cannot_be_written_is_said_as_such(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="state folder"):
        JobDatabase(tmp_path / "nowhere" / "jobs.sqlite")


@pytest.mark.parametrize("kind", [JobDatabase, StoreReading])
def test_a_store_that_cannot_be_read_is_not_kept_open(path: Path, kind: type[JobDatabase]) -> None:
    JobDatabase(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE meta")
    with pytest.raises((ConfigError, StorageFailed), match="meta"):
        kind(path)
    open_files = {str(one.resolve()) for one in Path("/proc/self/fd").iterdir()}
    assert str(path) not in open_files


def test_equal_parameters_have_equal_fingerprints_whatever_their_not_after() -> None:
    def of(model: str, not_after: float | None) -> str:
        return fingerprint("pull", PullModelParams(job_id="j", model=model, not_after=not_after))

    assert of("a", 1.0) == of("a", None) != of("b", None)
    assert of("a", None) != fingerprint("create", PullModelParams(job_id="j", model="a"))


def test_a_store_that_lost_a_table_says_that_it_cannot_be_used(db: JobDatabase) -> None:
    db.accept(new_job("j"), 1.0)
    db._db.execute("DROP TABLE records")  # noqa: SLF001 - a store that is no longer one
    with pytest.raises(StorageFailed, match="no such table"):
        db.add_record("j", b"x")
    assert db.get("j") is not None


def test_a_store_on_a_filesystem_that_cannot_be_written_says_so_and_can_be_read(db: JobDatabase) -> None:
    db.accept(new_job("j"), 1.0)
    db._db.execute("PRAGMA query_only = ON")  # noqa: SLF001 - SQLite's own way to a read-only file
    with pytest.raises(StorageFailed, match="read-only"):
        finish(db, "j")
    assert [job.state for job in db.unsettled()] == ["accepted"]


def test_a_store_that_another_program_holds_says_so(db: JobDatabase, path: Path) -> None:
    db._db.execute("PRAGMA busy_timeout = 1")  # noqa: SLF001 - 10 s in earnest
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFailed, match="end the other program"):
            db.accept(new_job("j"), 1.0)
        other.execute("ROLLBACK")
    db.accept(new_job("j"), 1.0)


def test_a_fault_of_ours_is_not_taken_for_one_of_the_disk(db: JobDatabase) -> None:
    db.accept(new_job("j"), 1.0)
    with pytest.raises(sqlite3.IntegrityError):
        db.accept(new_job("j"), 1.0)
