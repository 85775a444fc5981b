"""The same commands over the link's own session and a real socket."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.handlers.bench import Bench
from tests.handlers.test_jobs import PLAN
from tests.link.doubles import Meeting, meeting
from tests.waiting import until

TINY = "standin-small"


@asynccontextmanager
async def commanded(bench: Bench) -> AsyncIterator[Meeting]:
    """An admitted session whose requests go to the dispatcher."""
    async with meeting() as met:
        met.handler.on_request = bench.dispatcher.on_request  # type: ignore[method-assign]  # the real handler
        met.handler.session_ended = bench.dispatcher.session_ended  # type: ignore[method-assign]  # as above
        yield met


async def read_stream(met: Meeting, request_id: Any) -> tuple[list[Any], dict[str, Any]]:
    """The items of a stream, in order without holes, and the answer that ends it; grants what is read."""
    items: list[Any] = []
    expected = 0
    while True:
        message = await met.peer.receive()
        if message.get("method") == "stream.data" and message["params"]["id"] == request_id:
            assert message["params"]["seq"] == expected
            expected += 1
            items += message["params"].get("items", [])
            await met.peer.notify("stream.credit", {"id": request_id, "bytes": message["bytes"]})
            await met.peer.notify("link.credit", {"bytes": message["bytes"]})
        elif "method" not in message and message.get("id") == request_id:
            return items, message


async def test_a_generation_arrives_complete_with_the_count_of_its_frames(bench: Bench) -> None:
    bench.standin.script.tokens, bench.standin.script.numbered = 2000, True
    async with commanded(bench) as met:
        number = await met.peer.request("generate", {"model": TINY, "prompt": "x"})
        items, answer = await read_stream(met, number)
        assert [item["chunk"]["response"] for item in items] == [f" {n}" for n in range(2000)]
        assert [item["t_us"] for item in items] == sorted(item["t_us"] for item in items)
        assert answer["result"]["final"]["done"] is True
        assert answer["result"]["stream"]["next_seq"] > 0


async def test_cancel_over_the_wire_closes_ollama_and_says_how_far_the_stream_came(bench: Bench) -> None:
    script = bench.standin.script
    script.tokens, script.ending, script.ending_after = 50, "hang", 5
    async with commanded(bench) as met:
        number = await met.peer.request("generate", {"model": TINY, "prompt": "x"})
        await met.peer.expect("stream.data")
        await until(lambda: bench.standin.open_streams == 1)
        await met.peer.request("cancel", {"id": number}, id="c")
        answers: dict[Any, Any] = {}
        while len(answers) < 2:
            message = await met.peer.receive()
            if "method" not in message:
                answers[message["id"]] = message
        assert answers[number]["error"]["code"] == -32004
        assert answers[number]["error"]["data"]["stream"]["next_seq"] >= 1
        assert answers["c"]["result"] == {"state": "cancelling"}
        await until(lambda: bench.standin.open_streams == 0)


async def test_a_cut_socket_closes_ollamas_streams(bench: Bench) -> None:
    script = bench.standin.script
    script.tokens, script.ending, script.ending_after, script.num_parallel = 50, "hang", 5, 3
    async with commanded(bench) as met:
        for _ in range(3):
            await met.peer.request("generate", {"model": TINY, "prompt": "x"})
        await until(lambda: bench.standin.open_streams == 3)
        met.peer.socket.transport.abort()
        await until(lambda: bench.standin.open_streams == 0)
        assert bench.dispatcher.in_flight == 0


async def test_a_server_that_grants_nothing_gets_its_window_and_no_more(bench: Bench) -> None:
    bench.standin.script.tokens, bench.standin.script.fast = 16_000, True
    async with commanded(bench) as met:
        number = await met.peer.request("generate", {"model": TINY, "prompt": "x" * 100})
        got = 0
        while got < 30_000:
            got += (await met.peer.expect("stream.data"))["bytes"]
        info = await met.peer.request("agent_info")
        while (message := await met.peer.receive()).get("id") != info:
            got += message["bytes"] if message.get("method") == "stream.data" else 0
        assert got < 2 * 32_768, "of more than a megabyte"
        assert bench.dispatcher.streams == 1
        await met.peer.request("cancel", {"id": number}, id="c")
        assert (await met.peer.expect(id=number))["error"]["code"] == -32004


async def test_an_image_goes_by_blob_and_a_wrong_request_by_the_path_of_its_field(bench: Bench) -> None:
    image = bytes(range(256)) * 4000
    async with commanded(bench) as met:
        for offset in range(0, len(image), 512_000):
            data = base64.b64encode(image[offset : offset + 512_000]).decode()
            last = offset + 512_000 >= len(image)
            put = await met.peer.request(
                "blob.put", {"blob": "b", "offset": offset, "data": data, "last": last}
            )
            assert "result" in await met.peer.expect(id=put)
        number = await met.peer.request("generate", {"model": TINY, "prompt": "?", "images": [{"blob": "b"}]})
        await read_stream(met, number)
        asked = [exchange for exchange in bench.standin.requests if exchange.path == "/api/generate"][-1]
        assert base64.b64decode(json.loads(asked.body)["images"][0]) == image
        wrong = await met.peer.request("generate", {"model": []})
        assert "params.model" in (await met.peer.expect(id=wrong))["error"]["message"]


async def test_a_benchmark_is_acknowledged_over_the_wire(bench: Bench) -> None:
    async with commanded(bench) as met:
        serving = asyncio.create_task(bench.jobs.report(met.session, 1_000.0))
        number = await met.peer.request("run_benchmark", {"job_id": "b1", "plan": PLAN})
        assert (await met.peer.expect(id=number))["result"]["state"] in ("queued", "running")
        progress = await met.peer.expect("job.progress")
        assert progress["params"]["job_id"] == "b1"
        while True:
            message = await met.peer.receive()
            if message.get("method") == "job.part":
                params = message["params"]
                size = len(base64.b64decode(params["data"]))
                await met.peer.answer(message, {"job_id": "b1", "next_offset": params["offset"] + size})
            elif message.get("method") == "job.finished":
                assert message["params"]["state"] == "completed"
                await met.peer.answer(message, {"job_id": "b1", "sha256": message["params"]["sha256"]})
                break
        assert await bench.jobs.uploader.drain(20)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
