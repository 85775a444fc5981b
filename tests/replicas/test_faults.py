"""What stays and what is refused while the bus or the database is away."""

import asyncio
import contextlib

import httpx
import msgspec
import pytest

from obt_agent.errors import AgentError, LinkLost, StorageFailed
from obt_agent.protocol.commands import RunningModelsResult
from obt_agent.protocol.envelope import Request
from obt_server.hub import OutOfReach
from obt_server.hub.events import CampaignChanged, JobChanged, RegressionChanged, RolloutChanged
from obt_server.hub.storage import JobRecord
from obt_server.replica_storage import Owner
from obt_server.replicas.errors import OwnerUnknown
from obt_server.storage import StorageUnavailable
from obt_server.store.postgresql import DatabaseUnavailable
from tests.replicas.fleet import Replica, asked_last
from tests.replicas.test_calls import running_models
from tests.server.agent_double import AgentDouble, Answer, never, uuid7
from tests.server.job_steps import PLAN, accept, finish
from tests.waiting import until

Two = tuple[Replica, Replica]


async def test_without_the_bus_own_agents_go_on_and_others_are_503_at_once(two: Two) -> None:
    here, there = two
    async with there.server.agent("other") as other, here.server.agent("own") as own:
        for agent in (other, own):
            agent.handlers["running_models"] = running_models
        await here.hears_of(other)
        here.bus.lose()
        assert await here.hub.call(own.agent_id, "running_models") == RunningModelsResult(models=())
        assert here.hub.online() == {own.agent_id, other.agent_id}, "it is shown as it was heard of last"
        answer = await here.server.http.post(
            f"/api/v1/agents/{other.agent_id}/commands/running_models", json={}
        )
        assert answer.status_code == 503, answer.text
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["error"]["kind"] == "bus_unavailable"
        with pytest.raises(OutOfReach):
            async with here.hub.stream(other.agent_id, "generate", {"model": "m", "prompt": "p"}):
                pass
        with pytest.raises(OutOfReach):
            await here.hub.start_job(other.agent_id, "run_benchmark", {"plan": PLAN})
        here.bus.restore()
        assert await here.hub.call(other.agent_id, "running_models") == RunningModelsResult(models=())


async def test_what_is_under_way_when_the_bus_goes_ends_at_once(two: Two) -> None:
    here, there = two
    async with there.server.agent() as agent:
        agent.handlers["running_models"] = never
        await here.hears_of(agent)
        asked = asyncio.create_task(here.hub.call(agent.agent_id, "running_models"))
        await agent.until(lambda: asked_last(agent) == "running_models")
        here.bus.lose()
        await asyncio.wait([asked], timeout=20)
        assert asked.done()
        assert getattr(asked.exception(), "kind", "") in ("link_lost", "bus_unavailable")
        # The other server heard that nobody waits any more, or will by the silence.
        await agent.until(lambda: asked_last(agent) == "cancel")


async def test_a_start_that_the_bus_loses_is_asked_for_again_and_is_the_same_job(two: Two) -> None:
    here, there = two
    taken = asyncio.Event()

    async def accepts_later(agent: AgentDouble, request: Request) -> Answer:
        await taken.wait()
        return await accept(agent, request)

    async with there.server.agent() as agent:
        agent.handlers["run_benchmark"] = accepts_later
        await here.hears_of(agent)
        params = {"job_id": uuid7(), "plan": PLAN}
        asked = asyncio.create_task(here.hub.start_job(agent.agent_id, "run_benchmark", params))
        await agent.until(lambda: asked_last(agent) == "run_benchmark")
        here.bus.lose()
        with pytest.raises(AgentError) as lost:
            await asyncio.wait_for(asked, 20)
        assert lost.value.kind in ("link_lost", "bus_unavailable")
        taken.set()
        here.bus.restore()

        async def again() -> bool:
            with contextlib.suppress(OutOfReach, LinkLost):
                await here.hub.start_job(agent.agent_id, "run_benchmark", params)
                return True
            return False

        await until(again)
        starts = [one for one in agent.requests if one.method == "run_benchmark"]
        assert {msgspec.json.decode(one.params)["job_id"] for one in starts} == {params["job_id"]}
        shown = (await here.server.http.get("/api/v1/benchmarks")).json()
        assert [one["job_id"] for one in shown] == [params["job_id"]]
        await finish(agent, str(params["job_id"]))

        async def completed() -> bool:
            view = (await here.server.http.get(f"/api/v1/benchmarks/{params['job_id']}")).json()
            return (view["state"], view["result_available"]) == ("completed", True)

        await until(completed)


async def test_while_the_database_is_away_own_agents_go_on_and_others_are_503(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    async with there.server.agent("other") as other, here.server.agent("own") as own:
        own.handlers["running_models"] = running_models
        await here.hears_of(other)

        async def fails(_: str) -> Owner | None:
            raise StorageFailed("away")

        monkeypatch.setattr(here.server.parts.storage, "owner", fails)
        assert await here.hub.call(own.agent_id, "running_models") == RunningModelsResult(models=())
        with pytest.raises(OwnerUnknown) as raised:
            await here.hub.call(other.agent_id, "running_models")
        assert (raised.value.retryable, raised.value.retry_after_ms) == (True, 1000)
        answer = await here.server.http.post(
            f"/api/v1/agents/{other.agent_id}/commands/running_models", json={}
        )
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


async def test_an_owner_that_cannot_store_is_no_agent_that_cannot(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two

    async def full(_: AgentDouble, __: Request) -> Answer:
        return StorageFailed("The agent's job store cannot be used.")

    async with there.server.agent() as agent:
        await here.hears_of(agent)

        async def started() -> httpx.Response:
            body = {"agent": agent.agent_id, "plan": PLAN}
            return await here.server.http.post("/api/v1/benchmarks", json=body)

        agent.handlers["run_benchmark"] = full
        answer = await started()
        assert (answer.status_code, answer.json()["error"]["kind"]) == (507, "storage_failed")

        async def away(_: JobRecord) -> None:
            raise DatabaseUnavailable("away", retry_after_ms=1000)

        monkeypatch.setattr(there.server.parts.storage, "create_job", away)
        answer = await started()
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "storage_failed")
        assert answer.headers["Retry-After"] == "1"
        with pytest.raises(StorageUnavailable):
            await here.hub.start_job(agent.agent_id, "run_benchmark", {"plan": PLAN})


async def test_a_database_that_hangs_does_not_hold_up_who_asks(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    async with there.server.agent() as other:
        await here.hears_of(other)

        async def hangs(_: str) -> Owner | None:
            await asyncio.Event().wait()
            return None

        monkeypatch.setattr(here.server.parts.storage, "owner", hangs)
        with pytest.raises(OwnerUnknown):
            await here.hub.call(other.agent_id, "running_models")


async def test_events_of_each_server_are_published_at_all_and_go_round_no_more(two: Two) -> None:
    here, there = two
    published = [
        JobChanged("a", "j", "running"),
        RolloutChanged("r"),
        CampaignChanged("c"),
        RegressionChanged(7, b'{"id":7}'),
        JobChanged("a", "j", "completed"),
    ]
    with here.hub.events.listen() as listener, there.hub.events.listen() as own:
        events = there.hub.events
        events.job_changed(JobChanged("a", "j", "running"))
        events.rollout_changed("r")
        events.campaign_changed("c")
        events.regression_changed(7, b'{"id":7}')
        events.job_changed(JobChanged("a", "j", "completed"))
        assert [await listener.next() for _ in published] == published
        assert [await own.next() for _ in published] == published
        # The next one each way is the next event each way: none of the first came back.
        here.hub.events.rollout_changed("back")
        assert await own.next() == RolloutChanged("back")
        events.rollout_changed("again")
        assert [await listener.next(), await listener.next()] == [
            RolloutChanged("back"),
            RolloutChanged("again"),
        ]


async def test_what_an_operator_changes_at_one_server_the_next_answer_of_another_shows(two: Two) -> None:
    here, there = two
    async with there.server.agent("box") as agent:
        await here.hears_of(agent)
        with here.hub.events.listen() as listener:
            # Behind what was said of its enrolment.
            there.hub.events.rollout_changed("r")
            while await listener.next() != RolloutChanged("r"):
                pass
        before = here.hub.directory._changes  # noqa: SLF001 -- what makes the next answer read
        renamed = await there.server.http.patch(f"/api/v1/agents/{agent.agent_id}", json={"name": "rack-9"})
        assert renamed.status_code == 200, renamed.text
        await until(lambda: here.hub.directory._changes > before)  # noqa: SLF001
        listed = (await here.server.http.get("/api/v1/agents")).json()
        assert [one["name"] for one in listed] == ["rack-9"]
