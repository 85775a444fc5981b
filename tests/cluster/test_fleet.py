"""Servers that share agents: what each of them, NATS and PostgreSQL may do while something is under way."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from obt_agent.protocol.envelope import Request
from tests.cluster.nats import NatsServer
from tests.cluster.postgresql import PostgreSQL, say
from tests.cluster.replicas import ReplicaProcess, replica_process, replica_processes
from tests.replicas.fleet import asked_last
from tests.server.agent_double import AgentDouble, Answer, never
from tests.server.job_steps import PLAN, accept, sync_jobs
from tests.waiting import until

SLACK_S = 20
"""For a machine at load 20; what is measured is whether there is an end at all."""

Three = list[ReplicaProcess]


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    with NatsServer() as one:
        yield one


@pytest.fixture
async def three(database: str, nats: NatsServer) -> AsyncIterator[Three]:
    async with replica_processes(database, 3, "--bus", nats.address) as processes:
        yield processes


async def running_models(_: AgentDouble, __: Request) -> Answer:
    return {"models": []}


async def test_every_server_reaches_the_agents_of_all(three: Three) -> None:
    async with contextlib.AsyncExitStack() as stack:
        agents = [await stack.enter_async_context(one.agent()) for one in three]
        for agent in agents:
            agent.handlers["running_models"] = running_models
            for one in three:
                await one.shows(agent.agent_id, "online")
                assert (await one.command(agent.agent_id, "running_models")).json() == {"models": []}
    for agent in agents:
        for one in three:
            await one.shows(agent.agent_id, "offline")


async def _ends(asked: "asyncio.Task[object]", within_s: float) -> float:
    began = time.monotonic()
    await asyncio.wait([asked], timeout=within_s + SLACK_S)
    assert asked.done(), "it hangs"
    return time.monotonic() - began


@pytest.mark.parametrize("fault", ["killed", "stopped"])
async def test_what_is_asked_of_a_server_that_dies_ends_within_seconds(three: Three, fault: str) -> None:
    here, there, _ = three
    streaming = asyncio.Event()

    async def generate(agent: AgentDouble, request: Request) -> Answer:
        await agent.stream(request, b'{"response":"a"}')
        return None

    async def read() -> bytes:
        url = f"/api/v1/agents/{agent.agent_id}/commands/generate"
        async with here.http.stream("POST", url, json={"model": "m", "prompt": "p"}) as answer:
            text = b""
            async for part in answer.aiter_bytes():
                text += part
                streaming.set()
            return text

    async with there.agent() as agent:
        agent.handlers |= {"generate": generate, "running_models": never, "run_benchmark": never}
        await here.shows(agent.agent_id, "online")
        call = asyncio.create_task(here.command(agent.agent_id, "running_models"))
        body = {"agent": agent.agent_id, "plan": PLAN}
        start = asyncio.create_task(here.http.post("/api/v1/benchmarks", json=body))
        stream = asyncio.create_task(read())
        await agent.until(
            lambda: {"running_models", "run_benchmark"} <= {one.method for one in agent.requests}
        )
        await streaming.wait()
        if fault == "killed":
            await there.process.kill()
        else:
            there.stop()
        took = await _ends(asyncio.ensure_future(asyncio.gather(call, start, stream)), 5)
        say(f"call, start and stream of a server that was {fault}: ended after {took:.1f} s")
        for answer in (call.result(), start.result()):
            assert (answer.status_code, answer.json()["error"]["kind"]) == (502, "link_lost")
        assert b"event: error" in stream.result()
        assert b"link_lost" in stream.result()


async def test_a_start_whose_server_died_is_sent_again_at_the_next_admission_anywhere_and_once(
    three: Three,
) -> None:
    here, there, third = three
    credentials = await here.enrol()
    async with there.agent(credentials, instance="i") as agent:
        agent.handlers["run_benchmark"] = never
        await here.shows(agent.agent_id, "online")
        body = {"agent": agent.agent_id, "plan": PLAN}
        start = asyncio.create_task(here.http.post("/api/v1/benchmarks", json=body))
        await agent.until(lambda: asked_last(agent) == "run_benchmark")
        job_id = msgspec.json.decode(agent.requests[-1].params)["job_id"]
        await there.process.kill()
        answer = await start
        assert answer.json()["error"]["kind"] == "link_lost", answer.text
    (job,) = (await here.http.get("/api/v1/benchmarks")).json()
    assert (job["job_id"], job["state"]) == (job_id, "starting")
    async with third.agent(credentials, instance="i") as again:
        again.handlers["run_benchmark"] = accept
        await sync_jobs(again)
        await again.until(lambda: "run_benchmark" in [one.method for one in again.requests])

        async def queued() -> bool:
            return bool((await here.http.get(f"/api/v1/benchmarks/{job_id}")).json()["state"] == "queued")

        await until(queued)
        started = [one for one in again.requests if one.method == "run_benchmark"]
        assert [msgspec.json.decode(one.params)["job_id"] for one in started] == [job_id]


async def test_agents_of_a_killed_server_are_offline_everywhere_and_are_refused_at_once(three: Three) -> None:
    here, there, third = three
    async with there.agent() as agent, third.agent() as other:
        for one in (here, third):
            await one.shows(agent.agent_id, "online")
        await here.shows(other.agent_id, "online")
        began = time.monotonic()
        await there.process.kill()

        # Nobody listens there any more: that needs no silence. A call that NATS took before it knew is lost.
        answers = [await here.command(agent.agent_id, "running_models") for _ in range(2)]
        first, second = [(one.status_code, one.json()["error"]["kind"]) for one in answers]
        assert first in {(409, "agent_offline"), (502, "link_lost")}
        assert second == (409, "agent_offline")
        for one in (here, third):
            await one.shows(agent.agent_id, "offline")
        say(f"offline at the others {time.monotonic() - began:.1f} s after its server was killed")
        assert await here.presence(other.agent_id) == "online"


async def test_without_nats_each_server_goes_on_with_its_own_and_no_agent_flickers(
    three: Three, nats: NatsServer
) -> None:
    here, there, _ = three
    async with here.agent() as own, there.agent() as other:
        for agent in (own, other):
            agent.handlers["running_models"] = running_models
        await here.shows(other.agent_id, "online")
        shown: list[str] = []
        async with here.http.stream("GET", "/api/v1/events") as events:

            async def follow() -> None:
                async for line in events.aiter_lines():
                    shown.append(line)  # noqa: PERF401 -- read while it grows

            following = asyncio.create_task(follow())
            nats.kill()
            try:
                assert (await here.command(own.agent_id, "running_models")).status_code == 200

                async def refused() -> bool:
                    return (await here.command(other.agent_id, "running_models")).status_code == 503

                await until(refused)
                began = time.monotonic()
                answer = await here.command(other.agent_id, "running_models")
                say(f"another server's agent without NATS: refused after {time.monotonic() - began:.2f} s")
                assert answer.json()["error"]["kind"] == "bus_unavailable"
                assert int(answer.headers["Retry-After"]) >= 1
                # A new one comes in, and one that leaves is gone, wherever NATS is.
                async with here.agent() as later:
                    await here.shows(later.agent_id, "online")
            finally:
                nats.start()

            async def answered() -> bool:
                return (await here.command(other.agent_id, "running_models")).status_code == 200

            await until(answered)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        agents = [msgspec.json.decode(line[6:]) for line in shown if line.startswith('data: {"id"')]
        of_other = [one for one in agents if one["id"] == other.agent_id]
        assert of_other
        assert {one["presence"] for one in of_other} == {"online"}


async def test_a_server_that_starts_without_nats_serves_its_agents_and_joins_when_it_is_back(
    database: str, nats: NatsServer
) -> None:
    async with replica_process(database, "--bus", nats.address) as one:
        nats.kill()
        try:
            late = contextlib.AsyncExitStack()
            two = await late.enter_async_context(replica_process(database, "--bus", nats.address))
            agent = await late.enter_async_context(two.agent())
            agent.handlers["running_models"] = running_models
            assert (await two.command(agent.agent_id, "running_models")).status_code == 200
        finally:
            nats.start()
        async with late:
            # Shown from the database before NATS is back.
            await one.shows(agent.agent_id, "online")

            async def reached() -> bool:
                return (await one.command(agent.agent_id, "running_models")).status_code == 200

            await until(reached)


async def test_without_postgresql_own_agents_answer_others_are_503_and_none_flickers(
    three: Three, postgres: PostgreSQL
) -> None:
    here, there, _ = three
    async with here.agent() as own, there.agent() as other:
        for agent in (own, other):
            agent.handlers["running_models"] = running_models
        await here.shows(other.agent_id, "online")
        # Who asks is known for some seconds: the first answers show that the agents go on.
        postgres.hang()
        try:
            answers = await asyncio.gather(
                here.command(own.agent_id, "running_models"), here.command(other.agent_id, "running_models")
            )
        finally:
            postgres.go_on()
        assert {answer.status_code for answer in answers} <= {200, 503}, [one.text for one in answers]

        async def answered() -> bool:
            return (await here.command(other.agent_id, "running_models")).status_code == 200

        await until(answered)
        assert own.closed is None
        assert other.closed is None


async def test_a_server_that_was_stopped_and_goes_on_ends_sessions_that_moved_meanwhile(three: Three) -> None:
    here, there, _ = three
    credentials = await here.enrol()
    async with there.agent(credentials, instance="i") as old:
        await here.shows(old.agent_id, "online")
        there.stop()
        async with here.agent(credentials, instance="i") as new:
            new.handlers["running_models"] = running_models
            there.go_on()
            assert (await old.until_closed())[0] == 1001
            for one in (here, there):
                await one.shows(new.agent_id, "online")
                assert (await one.command(new.agent_id, "running_models")).status_code == 200
