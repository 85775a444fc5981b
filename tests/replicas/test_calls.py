"""What is asked of another server's agent: answers, errors, streams, watches, jobs."""

import asyncio
import base64
import contextlib
import hashlib
from pathlib import Path

import msgspec
import pytest

from obt_agent.errors import AgentError, Busy, InvalidParams, LinkLost, NotPermitted, UnknownCommand
from obt_agent.protocol.commands import RunningModelsResult
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.errors import StreamEnd
from obt_agent.protocol.streams import Item, SeriesFinal, SeriesItem, StreamFinal
from obt_server.hub import AgentOffline
from obt_server.replica_storage import Owner
from tests.replicas.fleet import Replica, asked_last, fleet_of
from tests.server.agent_double import AgentDouble, Answer, never
from tests.server.conftest import running
from tests.server.job_steps import PLAN, accept, finish
from tests.server.test_streams import embed_large
from tests.waiting import until

Two = tuple[Replica, Replica]
MODEL = {"model": "m", "prompt": "p"}


async def running_models(_: AgentDouble, __: Request) -> Answer:
    return {"models": [], "later": 1}


async def test_a_command_reaches_the_agent_of_another_server(two: Two) -> None:
    here, there = two
    async with there.server.agent() as agent:
        agent.handlers["running_models"] = running_models
        await here.hears_of(agent)
        assert await here.hub.call(agent.agent_id, "running_models") == RunningModelsResult(models=())
        assert await here.hub.call_text(agent.agent_id, "running_models") == b'{"models":[],"later":1}'
        answer = await here.server.http.get(f"/api/v1/agents/{agent.agent_id}")
        assert answer.json()["presence"] == "online"


@pytest.mark.parametrize(
    "error",
    [
        NotPermitted("The owner does not allow it.", policy_key="commands"),
        Busy("Later.", retry_after_ms=1234),
    ],
)
async def test_what_the_agent_answers_is_raised_as_what_it_was(two: Two, error: AgentError) -> None:
    here, there = two

    async def refuse(_: AgentDouble, __: Request) -> Answer:
        return error

    async with there.server.agent() as agent:
        agent.handlers["running_models"] = refuse
        await here.hears_of(agent)
        with pytest.raises(type(error)) as raised:
            await here.hub.call(agent.agent_id, "running_models")
        assert (raised.value.message, raised.value.retry_after_ms) == (error.message, error.retry_after_ms)
        assert raised.value.detail.items() >= error.detail.items()


async def test_what_is_no_command_is_refused_before_another_server_is_asked(two: Two) -> None:
    here, there = two
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        with pytest.raises(UnknownCommand):
            await here.hub.call(agent.agent_id, "no_such")
        with pytest.raises(UnknownCommand):
            async with here.hub.stream(agent.agent_id, "running_models"):
                pass
        for method in ("show_model", "pull_model"):
            with pytest.raises(InvalidParams):
                await here.hub.call(agent.agent_id, method, {})
        assert agent.requests == []


async def test_an_agent_that_is_nowhere_is_offline(two: Two) -> None:
    here, there = two
    agent_id, _ = await there.server.enrol()
    for asked in (
        here.hub.call(agent_id, "running_models"),
        here.hub.start_job(agent_id, "run_benchmark", {"plan": PLAN}),
        here.hub.cancel_job(agent_id, "j"),
        here.hub.rotate(agent_id, "r"),
    ):
        with pytest.raises(AgentOffline):
            await asked
    for opened in (here.hub.stream(agent_id, "generate", MODEL), here.hub.watch_hardware(agent_id)):
        with pytest.raises(AgentOffline):
            async with opened:
                pass


async def test_a_stream_of_another_server_is_complete_and_in_order(two: Two) -> None:
    here, there = two
    sent = [0]

    async def generate(agent: AgentDouble, request: Request) -> Answer:
        for start in range(0, 5000, 50):
            texts = [b'{"response":"%d"}' % n for n in range(start, start + 50)]
            await agent.until(lambda: 32768 + agent.credit.get(request.id, 0) > sent[0])
            sent[0] += sum(map(len, texts)) + 50 * 20 + 100
            await agent.stream(request, *texts)
        return agent.final(request)

    async with there.server.agent() as agent:
        agent.handlers["generate"] = generate
        await here.hears_of(agent)
        async with here.hub.stream(agent.agent_id, "generate", MODEL) as stream:
            items = [item async for item in stream]
            result = stream.result
    assert [item.chunk["response"] for item in items if isinstance(item, Item)] == [
        str(n) for n in range(5000)
    ]
    assert isinstance(result, StreamFinal)
    assert result.stream.next_seq == 100


async def test_a_reader_that_stops_stops_the_agent_and_one_that_leaves_cancels_it(two: Two) -> None:
    here, there = two
    count = [0]

    async def generate(agent: AgentDouble, request: Request) -> Answer:
        while True:
            await agent.until(lambda: 32768 + agent.credit.get(request.id, 0) > count[0] * 1000)
            count[0] += 1
            await agent.stream(request, b'{"response":"' + b"a" * 900 + b'"}')

    async with there.server.agent() as agent:
        agent.handlers |= {"generate": generate, "running_models": running_models}
        await here.hears_of(agent)
        async with here.hub.stream(agent.agent_id, "generate", MODEL) as stream:
            batches = stream.text_batches()
            await anext(batches)
            # What the way holds is bounded: the agent gets no more credit, whatever else goes on.
            await until(lambda: count[0] > 32)
            for _ in range(50):
                await here.hub.call(agent.agent_id, "running_models")
            assert count[0] < 1000
        await agent.until(lambda: asked_last(agent) == "cancel")


async def test_large_images_and_large_answers_pass_whole(two: Two) -> None:
    here, there = two
    blobs: dict[str, bytes] = {}
    image = base64.b64encode(b"i" * 3_000_000).decode()
    text = "t" * 1_000_000

    async def put(_: AgentDouble, request: Request) -> Answer:
        piece = msgspec.json.decode(request.params)
        blobs[piece["blob"]] = blobs.get(piece["blob"], b"") + base64.b64decode(piece["data"])
        return {"size": len(blobs[piece["blob"]])}

    async def generate(agent: AgentDouble, request: Request) -> Answer:
        sent = 0
        whole = msgspec.json.encode(Item(t_us=1, chunk={"response": text})).decode()
        while sent < len(whole):
            # As the stream's credit allows.
            await agent.until(lambda: 32768 + agent.credit.get(request.id, 0) > sent)  # noqa: B023 -- now
            sent += 20_000
            await agent.piece(request, whole[sent - 20_000 : sent], more=sent < len(whole))
        return agent.final(request)

    async with there.server.agent() as agent:
        agent.handlers |= {"blob.put": put, "generate": generate}
        await here.hears_of(agent)
        params = MODEL | {"images": [image]}
        async with here.hub.stream(agent.agent_id, "generate", params) as stream:
            (item,) = [item async for item in stream]
    assert item.chunk["response"] == text
    assert [hashlib.sha256(one).digest() for one in blobs.values()] == [
        hashlib.sha256(b"i" * 3_000_000).digest()
    ]


async def test_a_large_result_passes_whole(two: Two) -> None:
    here, there = two
    async with there.server.agent() as agent:
        agent.handlers["embed"] = embed_large
        await here.hears_of(agent)
        answer = await here.hub.call(agent.agent_id, "embed", {"model": "m", "input": "x"})
    assert answer["embeddings"] == [[0.5] * 20_000]


async def test_viewers_of_all_servers_share_one_watch_at_the_agent(tmp_path: Path) -> None:
    sample = SeriesItem(t_us=1, n=1, sample={"cpu": 0.5})
    go_on = asyncio.Event()

    async def watch(agent: AgentDouble, request: Request) -> Answer:
        await agent.stream_items(request, msgspec.Raw(msgspec.json.encode(sample)))
        await go_on.wait()
        return SeriesFinal(interval_ms=500, stream=StreamEnd(next_seq=1))

    async with fleet_of(tmp_path, 3) as fleet, fleet.replicas[0].server.agent() as agent:
        agent.handlers["hardware_watch"] = watch
        async with contextlib.AsyncExitStack() as stack:
            viewers = []
            for replica in fleet.replicas:
                await replica.hears_of(agent)
                for _ in range(2):
                    opened = replica.hub.watch_hardware(agent.agent_id, 500)
                    viewers.append(aiter(await stack.enter_async_context(opened)))
            assert [await anext(viewer) for viewer in viewers] == [sample] * 6
            assert [one.method for one in agent.requests].count("hardware_watch") == 1
            # Of each other server one stream, whoever watches there.
            assert fleet.replicas[0].hub.exchanges.open_calls == 2
            go_on.set()
            for viewer in viewers:
                with pytest.raises(StopAsyncIteration):
                    await anext(viewer)


async def test_a_watch_that_all_have_left_is_cancelled_at_the_agent(two: Two) -> None:
    here, there = two
    async with there.server.agent() as agent:
        agent.handlers["benchmark_metrics"] = never
        await here.hears_of(agent)
        async with here.hub.watch_benchmark(agent.agent_id, "j"):
            await agent.until(lambda: asked_last(agent) == "benchmark_metrics")
        await agent.until(lambda: asked_last(agent) == "cancel")


async def test_a_job_is_started_followed_cancelled_and_finished_from_another_server(two: Two) -> None:
    here, there = two

    async def cancelled(_: AgentDouble, __: Request) -> Answer:
        return {"state": "cancelling"}

    async with there.server.agent() as agent:
        agent.handlers |= {"run_benchmark": accept, "cancel": cancelled}
        await here.hears_of(agent)
        body = {"agent": agent.agent_id, "plan": PLAN}
        started = await here.server.http.post("/api/v1/benchmarks", json=body)
        assert started.status_code == 202, started.text
        job_id = started.json()["job_id"]
        progress = {"job_id": job_id, "state": "running", "progress": {"phase": "warmup"}}
        await agent.notify("job.progress", progress)

        async def shown() -> bool:
            view = (await here.server.http.get(f"/api/v1/benchmarks/{job_id}")).json()
            return bool(view["progress"] and view["progress"]["phase"] == "warmup")

        await until(shown)
        assert (await here.hub.cancel_job(agent.agent_id, job_id)).state == "cancelling"
        with here.hub.events.listen() as listener:
            await finish(agent, job_id)
            while getattr(event := await listener.next(), "state", "") != "completed":
                pass
        assert getattr(event, "job_id", None) == job_id
        view = (await here.server.http.get(f"/api/v1/benchmarks/{job_id}")).json()
        assert (view["state"], view["result_available"]) == ("completed", True)


async def test_a_credential_is_rotated_from_another_server(two: Two) -> None:
    here, there = two

    async def rotate(_: AgentDouble, __: Request) -> Answer:
        return {"rotation_id": "r", "sha256": "a" * 64}

    async with there.server.agent() as agent:
        agent.handlers["credentials.rotate"] = rotate
        await here.hears_of(agent)
        assert await here.hub.rotate(agent.agent_id, "r") == "a" * 64


@pytest.mark.usefixtures("told_alone")
async def test_an_agent_that_is_deleted_at_one_server_ends_at_the_other_at_once(two: Two) -> None:
    here, there = two
    async with there.server.agent() as agent:
        await here.hears_of(agent)
        deleted = await here.server.http.delete(f"/api/v1/agents/{agent.agent_id}")
        assert deleted.status_code == 204, deleted.text
        assert (await agent.until_closed())[0] == 4401
        await here.misses(agent.agent_id)


async def test_a_session_that_ends_in_mid_call_is_a_lost_link_and_is_not_asked_again(two: Two) -> None:
    here, there = two
    async with there.server.agent() as agent:
        agent.handlers["running_models"] = never
        await here.hears_of(agent)
        asked = asyncio.create_task(here.hub.call(agent.agent_id, "running_models"))
        await agent.until(lambda: asked_last(agent) == "running_models")
        await agent.socket.close()
        with pytest.raises(LinkLost):
            await asked


async def test_an_agent_that_moves_while_it_is_looked_up_is_asked_where_it_is(
    two: Two, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, there = two
    async with there.server.agent() as agent:
        agent.handlers["running_models"] = running_models
        await here.hears_of(agent)
        storage = here.server.parts.storage
        real = storage.owner
        # What the database said a moment ago.
        said = [Owner(session=0, replica=there.hub.membership.replica_id), Owner(session=0, replica="dead")]

        asked: list[str] = []

        async def owner(agent_id: str) -> Owner | None:
            asked.append(agent_id)
            return said.pop() if said else await real(agent_id)

        monkeypatch.setattr(storage, "owner", owner)
        assert await here.hub.call(agent.agent_id, "running_models") == RunningModelsResult(models=())
        # The process that is not there did nothing, nor did the one that has a later session.
        assert len(asked) == 3
        assert [one.method for one in agent.requests].count("running_models") == 1


async def test_a_server_alone_stores_no_replica_with_an_admission(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.agent() as agent:
        assert await server.parts.storage.owner(agent.agent_id) == Owner(session=1, replica=None)
