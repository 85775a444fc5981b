"""What jobs and generations leave in the server's memory: nothing that grows with their number."""

import asyncio
import gc
from collections import Counter

from tests.server.agent_double import AgentDouble, Answer
from tests.server.conftest import Running
from tests.server.job_steps import finish, part, start
from tests.waiting import until

COUNTED = (asyncio.Lock, asyncio.Event, asyncio.Semaphore)


async def generate(agent: AgentDouble, request: object) -> Answer:
    await agent.stream(request, b'{"response":"x"}')  # type: ignore[arg-type] # the double's own request
    return agent.final(request)  # type: ignore[arg-type] # the same


async def work(server: Running, agent: AgentDouble, count: int) -> None:
    """So many jobs, each started, sent in a piece and whole, and deleted; and as many generations."""
    agent.handlers["generate"] = generate
    for _ in range(count):
        job = await start(server, agent)
        await part(agent, job, 0, "x")
        await finish(agent, job)
        path = f"/api/v1/agents/{agent.agent_id}/commands/generate"
        assert (await server.http.post(path, json={"model": "tiny", "prompt": "x"})).status_code == 200
        assert (await server.http.delete(f"/api/v1/benchmarks/{job}")).status_code == 204


def counted() -> Counter[str]:
    """Objects of the server's own types, and what guards them."""
    gc.collect()
    kinds = (type(one) for one in gc.get_objects())
    return Counter(
        kind.__qualname__
        for kind in kinds
        # Some types of libraries have a descriptor in that place.
        if kind in COUNTED or str(kind.__module__).startswith("obt_server")
    )


async def test_jobs_and_generations_leave_nothing_in_memory(server: Running) -> None:
    async with server.agent() as agent:
        await work(server, agent, 5)
        before = counted()
        await work(server, agent, 60)

        def grown() -> dict[str, int]:
            return {name: more for name, more in (counted() - before).items() if more >= 20}

        # An agent's turn at the writer ends some seconds after its last write.
        await until(lambda: not grown(), lambda: str(grown()))
