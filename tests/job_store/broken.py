"""Stores that are damaged on purpose: real files, real bytes."""

import contextlib
import sqlite3
from pathlib import Path

from obt_agent.jobs.store import JobStore
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.jobs.store.rows import FinalText
from obt_agent.protocol.jobs import JobState
from tests.job_store.doubles import new_job

PAGE = 4096


def text_of(job_id: str) -> bytes:
    """A result that fills some pages even when it is compressed."""
    return b'{"id":"' + job_id.encode() + b'","pad":"' + bytes(range(48, 90)) * 200 + b'"}'


def filled(path: Path, *, finished: int = 30, opened: int = 3, acknowledged: int = 3) -> str:
    """A closed store with such jobs, all of it in the one file; its id."""
    db = JobDatabase(path)
    for number in range(finished + acknowledged):
        finish(db, f"done{number}")
    for number in range(acknowledged):
        db.acknowledge(f"done{number}", FinalText.of(text_of(f"done{number}")).sha256, 5.0, conflict=False)
    for number in range(opened):
        db.accept(new_job(f"open{number}", params=b'{"n":1}', reserve=0), 1.0)
        db.start(f"open{number}", 2.0)
        for record in range(4):
            db.add_record(f"open{number}", b'{"record":%d}' % record)
    store_id = db.store_id
    db.close()
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store_id


def finish(db: JobDatabase, job_id: str, state: JobState = "completed") -> None:
    db.accept(new_job(job_id, params=b'{"n":1}', reserve=0), 1.0)
    db.finish(job_id, state, FinalText.of(text_of(job_id)), None, 2.0)


def page_of(path: Path, job_id: str) -> int:
    """The number (from 0) of the page that holds the row of a job."""
    return path.read_bytes().index(job_id.encode() + b"benchmark") // PAGE


def overwrite(path: Path, page: int, data: bytes = b"\xff" * PAGE, *, at: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE + at)
        file.write(data)


def connection(outbox: JobStore) -> sqlite3.Connection:
    """SQLite's own connection, for its own ways of being broken."""
    assert outbox._db is not None  # noqa: SLF001 - what only SQLite can be told
    return outbox._db._db  # noqa: SLF001 - as above
