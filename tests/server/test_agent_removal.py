"""An agent with everything that it reported is removed a little at a time, and whole at the end."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, insert, select
from sqlalchemy.orm import Session

from obt_server.storage import Enrolment
from obt_server.store import Database, SqlStorage
from obt_server.store.retention import BYTES_AT_ONCE, ROWS_AT_ONCE
from obt_server.store.tables import DigestRow, JobRow, PartRow, ResultRow, Table
from tests.server.agent_double import uuid7
from tests.server.databases import address_in
from tests.server.enrolling import enrol

LARGE = BYTES_AT_ONCE // 3
COUNTED = (ResultRow, PartRow, JobRow)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Database]:
    one = Database.open(address_in(tmp_path / "folder"))
    yield one
    one.close()


async def agent_with_much(opened: Database) -> str:
    """An agent with 7 large results, 250 jobs without one, and 7 large pieces of nobody's job."""
    enrolment = Enrolment(agent_id=uuid7(), name="box", version="1", secret_sha256=uuid7())
    agent_id = (await enrol(SqlStorage(opened), enrolment, 1.0)).id
    job = {"agent_id": agent_id, "params": b"{}", "created_at": 1.0}
    ended = {**job, "kind": "pull", "state": "failed"}
    with_result = {**job, "kind": "benchmark", "state": "completed", "bytes": LARGE, "sha256": "s"}
    result = {"agent_id": agent_id, "sha256": "s", "accepted": True, "stored_at": 1.0, "text": bytes(LARGE)}
    part = {"agent_id": agent_id, "job_id": "gone", "data": bytes(LARGE), "size": LARGE}
    digest = {"agent_id": agent_id, "sha256": "s", "digest": b"{}"}

    def work(db: Session) -> None:
        for number in range(7):
            for table, values in ((JobRow, with_result), (ResultRow, result), (DigestRow, digest)):
                db.execute(insert(table).values(**values, job_id=f"b{number}"))
            db.execute(insert(PartRow).values(**part, offset=number * LARGE))
        db.execute(insert(JobRow), [{**ended, "job_id": f"j{number}"} for number in range(250)])
        db.execute(insert(JobRow).values(**{**ended, "state": "running"}, job_id="runs"))

    await opened.run(work)
    return agent_id


def counted(db: Session | Connection) -> dict[str, int]:
    tables: tuple[type[Table], ...] = COUNTED
    return {
        table.__tablename__: db.execute(select(func.count()).select_from(table)).scalar_one()
        for table in tables
    }


async def test_no_transaction_removes_more_than_others_may_wait_for(opened: Database) -> None:
    agent_id = await agent_with_much(opened)
    held = [await opened.read(counted)]

    def look(connection: Connection) -> None:
        held.append(counted(connection))

    event.listen(opened._engine, "commit", look)  # noqa: SLF001 - what stands in the database after each
    await SqlStorage(opened).delete_agent(agent_id)
    event.remove(opened._engine, "commit", look)  # noqa: SLF001 - as above
    for before, after in itertools.pairwise(held):
        removed = {name: before[name] - after[name] for name in before}
        assert (removed["obt_results"] + removed["obt_result_parts"]) * LARGE <= BYTES_AT_ONCE
        assert removed["obt_jobs"] <= ROWS_AT_ONCE
    assert set(held[-1].values()) == {0}
    assert await SqlStorage(opened).agents() == []


async def test_what_fails_on_the_way_leaves_an_agent_that_can_be_deleted_again(opened: Database) -> None:
    agent_id = await agent_with_much(opened)
    storage = SqlStorage(opened)

    def fail(connection: Connection) -> None:
        if counted(connection)["obt_results"] < 4:
            raise OSError("the disk is full")

    event.listen(opened._engine, "commit", fail)  # noqa: SLF001 - before each transaction's end
    with pytest.raises(OSError, match="disk is full"):
        await storage.delete_agent(agent_id)
    event.remove(opened._engine, "commit", fail)  # noqa: SLF001 - as above
    assert [agent.id for agent in await storage.agents()] == [agent_id]
    assert (await opened.read(counted))["obt_results"] == 4
    await storage.delete_agent(agent_id)
    assert set((await opened.read(counted)).values()) == {0}


async def test_pieces_of_a_result_go_with_their_job(opened: Database) -> None:
    """Else they count against what the agent may send, until it has another store."""
    agent_id = await agent_with_much(opened)
    storage = SqlStorage(opened)
    more: dict[str, Any] = {"offset": 0, "data": b"abc", "limit": 9 * LARGE}
    await storage.store_part(agent_id, "runs", **more)
    await storage.store_part(agent_id, "j7", **more)
    await storage.delete_job(agent_id, "runs")
    assert await storage.parts(agent_id, "runs") == b""
    assert await storage.parts(agent_id, "j7") == b"abc"
