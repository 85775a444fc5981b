"""Lists by time, page after page, where many rows have the same time: each is shown once."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy import text as sql
from sqlalchemy.orm import Session

from obt_server.campaign_storage import Campaign
from obt_server.hub.storage import JobRecord
from obt_server.store.paging import earlier
from obt_server.store.tables import JobRow
from obt_server.verdict_storage import Verdict
from tests.server.conftest import Running

AT = 1000.0
MOST = 20


async def pages(server: Running, path: str, keys: dict[str, str]) -> list[tuple[Any, ...]]:
    """What names each row that is shown, two a page; ``keys``: queries by the fields that they repeat."""
    shown: list[tuple[Any, ...]] = []
    asked: dict[str, Any] = {}
    while True:
        answer = await server.http.get(f"/api/v1{path}", params={"limit": 2, **asked})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        if not page:
            return shown
        assert len(shown) < MOST, "the last row is on the next page again"
        shown += [tuple(one[field] for field in keys.values()) for one in page]
        asked = {name: page[-1][field] for name, field in keys.items()}


async def store_campaign(server: Running, number: int) -> str:
    """One that has ended: one that runs is shown as the engine has it."""
    ended: dict[str, Any] = {"state": "done", "finished_at": AT, "judged": True}
    campaign = Campaign(
        id=f"c{number}", plans=(), models=(), machines=(), created_at=AT, created_by="admin", **ended
    )
    return (await server.parts.storage.create_campaign(campaign, [])).id


async def test_campaigns_of_one_time_are_each_on_a_page(server: Running) -> None:
    made = [await store_campaign(server, number) for number in range(5)]
    shown = await pages(server, "/campaigns", {"before": "created_at", "before_id": "id"})
    assert shown == [(AT, one) for one in reversed(made)]


async def test_regressions_of_one_campaign_are_each_on_a_page(server: Running) -> None:
    agent_id, _ = await server.enrol()
    verdicts = [
        Verdict(
            agent_id=agent_id,
            agent_name="box",
            model=f"m{number}:latest",
            plan_hash="h",
            metric="x",
            verdict="slower",
            text="slower",
        )
        for number in range(5)
    ]
    found = await server.parts.storage.save_verdicts(await store_campaign(server, 1), AT, verdicts)
    shown = await pages(server, "/regressions", {"before": "at", "before_id": "id"})
    assert shown == [(AT, one) for one in sorted(found, reverse=True)]


@pytest.mark.parametrize("path", ["/jobs", "/benchmarks"])
async def test_jobs_of_one_time_are_each_on_a_page_also_where_two_machines_have_one_id(
    server: Running, path: str
) -> None:
    agents = [(await server.enrol(name))[0] for name in ("one", "other")]
    made = [(AT, str(number), agent) for number in range(5) for agent in sorted(agents)]
    for at, job_id, agent_id in made:
        job: dict[str, Any] = {"job_id": job_id, "agent_id": agent_id, "created_at": at, "params": b"{}"}
        await server.parts.storage.create_job(JobRecord(kind="benchmark", state="queued", **job))
    keys = {"before": "created_at", "before_id": "job_id", "before_agent": "agent_id"}
    assert await pages(server, path, keys) == made


async def test_a_page_is_found_by_its_time_and_not_by_reading_all_before_it(server: Running) -> None:
    """Else going through a long list would take the square of its length."""

    def plan(db: Session) -> str:
        place = earlier(JobRow.created_at, AT, JobRow.job_id < "m")
        page = select(JobRow.job_id).where(place).order_by(JobRow.created_at.desc()).limit(100)
        text = str(page.compile(db.get_bind(), compile_kwargs={"literal_binds": True}))
        if db.get_bind().dialect.name == "postgresql":
            # An empty table is read as a whole, unless that is said to be dear.
            db.execute(sql("set local enable_seqscan = off"))
            return str(db.execute(sql(f"explain {text}")).scalars().all())
        return str([row[-1] for row in db.execute(sql(f"explain query plan {text}"))])

    found = await server.parts.context.storage._db.run(plan)  # type: ignore[attr-defined]  # noqa: SLF001
    assert "(created_at<?)" in found or ("Index Cond" in found and "created_at <=" in found), found
    assert "BitmapOr" not in found, "all rows before it would be read for their order"
