"""The store: durable, private, one schema, two processes."""

import asyncio
import contextlib
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from obt_agent.protocol.errors import WireError
from obt_server.hub.storage import Admission, JobChange, JobRecord
from obt_server.storage import Enrolment, IdentityTaken, JobFilter, NotStored
from obt_server.store import Database, OperatorStore, SqlStorage, shared_reads
from obt_server.store.shared_reads import SharedReads
from tests.server.agent_double import uuid7
from tests.server.databases import address_in
from tests.server.enrolling import enrol
from tests.waiting import until


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Database]:
    one = Database.open(address_in(tmp_path / "folder"))
    yield one
    one.close()


async def enrolled(storage: SqlStorage, name: str = "box") -> str:
    enrolment = Enrolment(agent_id=uuid7(), name=name, version="1", secret_sha256=uuid7())
    return (await enrol(storage, enrolment, 1.0)).id


async def test_the_file_is_its_owners_alone_and_in_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "obt.sqlite3"
    Database.sqlite(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma journal_mode").fetchone() == ("wal",)


async def test_work_runs_off_the_event_loop_and_undone_when_it_fails(opened: Database) -> None:
    def work(_: Session) -> str:
        return threading.current_thread().name

    assert (await opened.run(work)).startswith("obt-store")
    storage = SqlStorage(opened)
    with pytest.raises(NotStored):
        await storage.admit(
            Admission(
                agent_id="nobody", credential_id=0, name="", version="", store_id="", capabilities=(), at=1.0
            )
        )
    assert await storage.agents() == []


async def test_two_processes_write_without_losing_anything(opened: Database, tmp_path: Path) -> None:
    other = Database.open(address_in(tmp_path / "folder"))
    try:
        one, two = SqlStorage(opened), SqlStorage(other)
        await asyncio.gather(*(enrolled(storage) for storage in (one, two) for _ in range(10)))
        assert len(await one.agents()) == len(await two.agents()) == 20
    finally:
        other.close()


async def test_names_agents_and_credentials(opened: Database) -> None:
    storage = SqlStorage(opened)
    agent_id = await enrolled(storage)
    again = Enrolment(agent_id=agent_id, name="x", version="1", secret_sha256="other")
    with pytest.raises(IdentityTaken):
        await enrol(storage, again, 2.0)
    await storage.revoke_credentials(agent_id, 2.0)
    assert (await enrol(storage, again, 3.0)).name == "x"
    assert await storage.revoked(()) == []
    assert await storage.revoked((1, 4711)) == [1, 4711]
    with pytest.raises(NotStored):
        await storage.request_rotation("nobody", 1.0)
    with pytest.raises(NotStored):
        await storage.delete_agent("nobody")
    assert await storage.hardware(agent_id) is None
    assert await storage.credential("nothing") is None


async def test_jobs_change_until_they_have_a_result_and_are_found_by_filter(opened: Database) -> None:
    storage = SqlStorage(opened)
    agent_id = await enrolled(storage)
    for number in range(3):
        job = JobRecord(
            job_id=str(number),
            agent_id=agent_id,
            kind="benchmark",
            state="starting",
            params=b"{}",
            model="a:1",
            created_at=float(number),
        )
        await storage.create_job(job)
        await storage.create_job(job)
    error = WireError(code=1, message="broke")
    await storage.change_job(agent_id, "0", JobChange(state="failed", finished_at=9.0, error=error))
    await storage.change_job(agent_id, "1", JobChange(started_session=4))
    await storage.change_job(agent_id, "unknown", JobChange(state="failed"))
    failed = await storage.job_by_id("0", agent_id)
    assert (failed.state, failed.finished_at, failed.error) == ("failed", 9.0, error)
    assert [job.job_id for job in await storage.open_jobs(agent_id)] == ["1", "2"]
    newest = await storage.jobs(JobFilter(agent_id=agent_id, limit=2))
    assert [job.job_id for job in newest] == ["2", "1"]
    assert [job.job_id for job in await storage.jobs(JobFilter(before=1.0))] == ["0"]
    assert await storage.jobs(JobFilter(kind="pull")) == []
    with pytest.raises(NotStored):
        await storage.job_by_id("0", "another agent")


async def test_an_empty_part_adds_nothing(opened: Database) -> None:
    storage = SqlStorage(opened)
    agent_id = await enrolled(storage)
    assert await storage.store_part(agent_id, "j", 0, b"", 10) == 0
    assert await storage.parts(agent_id, "j") == b""


async def test_operators_and_their_tokens(opened: Database) -> None:
    store = OperatorStore(opened)
    with pytest.raises(NotStored):
        await store.add_token("h", name="n", operator="nobody", at=1.0, expires_at=None)
    with pytest.raises(NotStored):
        await store.remove("nobody")
    await store.set_password("ann", "hash", 1.0)
    await store.add_token("h", name="n", operator="ann", at=1.0, expires_at=None)
    await store.add_sign_in("s", "ann", 1.0, 5.0)
    for at in (100.0, 101.0):
        token = await store.valid_token("h", at)
        assert token is not None
        assert (token.operator, token.scope) == ("ann", "operator")
    await store.set_password("eve", "hash", 1.0)

    # On SQLite the one writer has done what came before; on PostgreSQL there are several.
    async def noted() -> bool:
        return (await store.tokens())[0].last_used_at is not None

    await until(noted)
    assert (await store.tokens())[0].last_used_at == 100.0, "not a write for each request"
    await store.remove("ann")
    assert await store.valid_token("h", 2.0) is None
    assert await store.sign_in("s", 2.0) is None


async def test_who_ask_together_share_a_read_and_none_is_answered_from_one_that_began_before() -> None:
    reads, going_on = list[str](), asyncio.Event()

    async def read(key: str, at: float) -> int:
        reads.append(key)
        number = len(reads)
        await going_on.wait()
        return number

    shared = SharedReads(read)
    first = [asyncio.create_task(shared.get(key, 0.0)) for key in ("a", "a", "b")]
    await until(lambda: len(reads) == 2)
    later = asyncio.create_task(shared.get("a", 0.0))
    first[0].cancel()
    await until(lambda: len(reads) == 3)
    going_on.set()
    assert list(await asyncio.gather(first[1], first[2], later)) == [1, 2, 3]
    assert reads == ["a", "b", "a"]


async def test_a_token_that_was_found_holds_for_a_second_and_what_is_revoked_here_at_once(
    opened: Database, tmp_path: Path
) -> None:
    here, other = OperatorStore(opened), Database.open(address_in(tmp_path / "folder"))
    try:
        await here.set_password("ann", "hash", 1.0)
        numbers = list[int]()
        for sha256 in ("a", "b"):
            made = await here.add_token(sha256, name=sha256, operator="ann", at=1.0, expires_at=None)
            numbers.append(made.id)
            assert await here.valid_token(sha256, 100.0) is not None
        await OperatorStore(other).revoke_token(numbers[0])  # as the command line does, in another process
        assert await here.valid_token("a", 100.9) is not None
        assert await here.valid_token("a", 101.0) is None
        assert await here.valid_token("a", 100.9) is None, "what was not found is not kept"
        await here.revoke_token(numbers[1])
        assert await here.valid_token("b", 100.0) is None
        await here.add_sign_in("s", "ann", 100.0, 200.0)
        assert await here.sign_in("s", 100.0) == "ann"
        await here.remove_sign_in("s")
        assert await here.sign_in("s", 100.0) is None
        await here.add_sign_in("s", "ann", 100.0, 200.0)
        assert await here.sign_in("s", 100.0) == "ann"
        await here.set_password("ann", "another hash", 100.0)
        assert await here.sign_in("s", 100.0) is None
    finally:
        other.close()


async def test_a_read_that_began_before_a_change_is_not_kept() -> None:
    answers, going_on = ["old", "new"], asyncio.Event()

    async def read(key: str, at: float) -> str:
        answer = answers.pop(0)
        await going_on.wait()
        return answer

    shared = SharedReads(read, valid_s=10.0)
    first = asyncio.create_task(shared.get("a", 0.0))
    await until(lambda: len(answers) == 1)
    shared.forget()
    going_on.set()
    assert await first == "old"
    assert await shared.get("a", 0.0) == "new"
    assert await shared.get("a", 9.0) == "new"


async def test_only_so_many_answers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "MAX_KEPT", 2)
    reads = list[str]()

    async def read(key: str, at: float) -> str:
        reads.append(key)
        return key

    shared = SharedReads(read, valid_s=10.0)
    for key in ("a", "b", "b", "c", "c", "a"):
        assert await shared.get(key, 0.0) == key
    assert reads == ["a", "b", "c", "a"]
