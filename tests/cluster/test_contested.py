"""What several processes want at once on one PostgreSQL comes out as if they had come one after another."""

import asyncio
import contextlib
import hashlib
import threading
import time
from collections import Counter

from sqlalchemy import func, make_url, select
from sqlalchemy.orm import Session

from obt_agent.errors import StorageFull
from obt_server.hub.storage import Admission, JobRecord, JobResult
from obt_server.storage import Enrolment, JoinRefused
from obt_server.store import AgentQuota, Database, OperatorStore, SqlStorage, agents
from obt_server.store.operator_tables import OperatorRow
from obt_server.store.postgresql import postgresql_engine
from tests.cluster.contest import contest, first_starts
from tests.cluster.postgresql import PostgreSQL, say
from tests.server.enrolling import enrol

AGENTS, JOBS, TOKENS, EACH = 10, 60, 40, 10
MOST_UNASKED = 7


def agent(number: int) -> str:
    return f"0190-{number:04}"


async def enrol_all(address: str, count: int) -> None:
    with contextlib.closing(Database.open(address)) as database:
        storage = SqlStorage(database)
        for number in range(count):
            about = Enrolment(agent_id=agent(number), name="box", version="1", secret_sha256=f"{number:064}")
            await enrol(storage, about, 1.0)
        for number in range(JOBS):
            job = JobRecord(
                job_id=f"j{number}",
                agent_id=agent(0),
                kind="benchmark",
                state="running",
                params=b"{1}",
                created_at=1.0,
            )
            await storage.create_job(job)
        for number in range(TOKENS):
            await storage.create_join_token(f"t{number}", note="", agent_id=None, at=1.0, expires_at=1e12)


def about(agent_id: str, name: str) -> Admission:
    return Admission(
        agent_id=agent_id, credential_id=1, name=name, version="1", store_id="s", capabilities=(), at=2.0
    )


async def admit(storage: SqlStorage, process: int) -> list[tuple[int, int]]:
    async def one(number: int) -> tuple[int, int]:
        return number, (await storage.admit(about(agent(number), "box"))).session

    return await asyncio.gather(*(one(number) for number in range(AGENTS) for _ in range(EACH)))


async def test_400_admissions_get_400_numbers(database: str) -> None:
    await enrol_all(database, AGENTS)
    began = time.monotonic()
    found = [one for part in await asyncio.to_thread(contest, database, admit) for one in part]
    took = time.monotonic() - began
    say(f"400 admissions: {len(set(found))} numbers, in {took:.1f} s with the processes' starts")
    assert len(found) == len(set(found)) == 400
    assert {number for _, number in found} == set(range(1, 4 * EACH + 1))


def test_two_agents_that_return_at_once_do_not_repeat_each_other(database: str, postgres: PostgreSQL) -> None:
    with contextlib.closing(Database.open(database)):
        pass
    name = database.partition("@/")[2].partition("?")[0]
    postgres.execute(
        "insert into obt_agents (id, name, version, session, capabilities, labels, own_labels, enrolled_at) "
        "select 'a' || n, 'box' || n, '1', 0, '[]', '[]', '[]', 1 from generate_series(1, 500) n",
        name,
    )
    # As after weeks: the planner knows how many there are, and rows have room for their next version.
    postgres.execute("vacuum full analyze obt_agents", name)
    engine = postgresql_engine(make_url(database))
    with Session(engine) as one, Session(engine) as other:
        # Each looks before the other one's change is there: one of two that looked at all names would be
        # refused at its commit.
        first = agents.admit(one, about("a7", "box7"))
        second = agents.admit(other, about("a490", "box490"))
        one.commit()
        other.commit()
    engine.dispose()
    assert [(record.name, record.session) for record in (first, second)] == [("box7", 1), ("box490", 1)]


async def finish(storage: SqlStorage, process: int) -> list[tuple[str, str]]:
    async def one(number: int) -> tuple[str, str]:
        text = f'{{"by":{process}}}'.encode()
        result = JobResult(
            agent_id=agent(0),
            job_id=f"j{number}",
            kind="benchmark",
            state="completed",
            text=text,
            sha256=hashlib.sha256(text).hexdigest(),
            model="a:1",
            model_digest="d",
            error=None,
            at=3.0,
        )
        return f"j{number}", await storage.finish_job(result)

    return [await one(number) for number in range(JOBS)]


async def test_60_contested_jobs_keep_one_accepted_result_each(database: str, postgres: PostgreSQL) -> None:
    await enrol_all(database, 1)
    parts = await asyncio.to_thread(contest, database, finish)
    stored = Counter(job for part in parts for job, outcome in part if outcome == "stored")
    name = database.partition("@/")[2].partition("?")[0]
    accepted = postgres.execute(
        "select job_id, count(*) from obt_results where accepted group by job_id", name
    )
    say(f"{JOBS} jobs: {sum(stored.values())} answers 'stored', {len(accepted)} with an accepted result")
    assert stored == Counter({f"j{number}": 1 for number in range(JOBS)})
    assert sorted(accepted) == sorted((f"j{number}", 1) for number in range(JOBS))
    mine = postgres.execute(
        "select count(*) from obt_jobs j join obt_results r using (agent_id, job_id) "
        "where r.accepted and r.sha256 = j.sha256",
        name,
    )
    assert mine == [(JOBS,)], "the accepted one is the job's"


class SlowQuota(AgentQuota):
    """One whose transactions meet: each has counted before another one writes."""

    def check_unasked(self, db: Session, agent_id: str, more: int) -> None:
        super().check_unasked(db, agent_id, more)
        time.sleep(0.05)


async def keep_unasked(storage: SqlStorage, process: int) -> list[str]:
    storage._quota = SlowQuota(unasked_jobs=MOST_UNASKED)  # noqa: SLF001 - of this process alone

    async def one(number: int) -> str:
        text = b"{}"
        result = JobResult(
            agent_id=agent(0),
            job_id=f"unasked-{process}-{number}",
            kind="benchmark",
            state="completed",
            text=text,
            sha256=hashlib.sha256(text).hexdigest(),
            model="a:1",
            model_digest="d",
            error=None,
            at=3.0,
        )
        try:
            return await storage.finish_job(result)
        except StorageFull:
            return "full"

    return await asyncio.gather(*(one(number) for number in range(EACH)))


async def test_a_quota_is_that_of_all_processes_together(database: str) -> None:
    await enrol_all(database, 1)
    parts = await asyncio.to_thread(contest, database, keep_unasked)
    answers = Counter(answer for part in parts for answer in part)
    # Four processes have ten each, and each of them alone would keep seven.
    assert answers == {"stored": MOST_UNASKED, "full": 4 * EACH - MOST_UNASKED}


async def enroll(storage: SqlStorage, process: int) -> list[str]:
    async def one(number: int) -> str | None:
        own = f"0{process}-{number:04}"
        about = Enrolment(agent_id=own, name="box", version="1", secret_sha256=f"{process}-{number:062}")
        try:
            await storage.enroll(f"t{number}", about, 2.0)
        except JoinRefused as error:
            if error.detail["reason"] != "used":
                raise
            return None
        return f"t{number}"

    return [won for number in range(TOKENS) if (won := await one(number)) is not None]


async def test_40_one_time_tokens_admit_one_agent_each(database: str, postgres: PostgreSQL) -> None:
    await enrol_all(database, 1)
    won = Counter(token for part in await asyncio.to_thread(contest, database, enroll) for token in part)
    name = database.partition("@/")[2].partition("?")[0]
    agents = postgres.execute(
        "select count(*) from obt_agents where version = '1' and id not like '0190%'", name
    )
    say(f"{TOKENS} tokens: {sum(won.values())} enrolments, {agents[0][0]} agents")
    assert won == Counter({f"t{number}": 1 for number in range(TOKENS)})
    assert agents == [(TOKENS,)]


async def test_8_first_starts_at_once_all_succeed_and_one_makes_the_tables(database: str) -> None:
    found = await asyncio.to_thread(first_starts, database, 8)
    say(f"8 first starts: {Counter(found)}")
    assert Counter(found)[None] == 1
    assert len(found) == 8


async def test_a_transaction_that_another_made_untrue_is_run_again_as_a_whole(database: str) -> None:
    counted, go_on = threading.Event(), threading.Event()
    runs = 0

    def first_operator(db: Session) -> bool:
        nonlocal runs
        runs += 1
        none = not db.scalar(select(func.count()).select_from(OperatorRow))
        counted.set()
        go_on.wait(60)
        if none:
            db.add(OperatorRow(name="slow", password="hash", created_at=1.0))
        return none

    with contextlib.closing(Database.open(database)) as opened:
        slow = asyncio.create_task(opened.run(first_operator))
        try:
            await asyncio.to_thread(counted.wait, 60)
            assert await OperatorStore(opened).create_first("quick", "hash", 1.0)
        finally:
            go_on.set()
        assert (await slow, runs) == (False, 2)
        assert await OperatorStore(opened).names() == ["quick"]
