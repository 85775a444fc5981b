"""``generate``, ``chat`` and ``embed`` over the stand-in: complete, in order, cancelled at once."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from obt_agent.protocol.errors import WireError
from obt_standin import Behaviour, StandIn
from tests.dispatcher.doubles import FakeSession
from tests.handlers.bench import Bench
from tests.waiting import until

TINY = "standin-small"


def words(session: FakeSession, request_id: int) -> list[str]:
    chunks = [item.chunk for item in session.streams[request_id].items]
    return [chunk.get("response") or chunk["message"]["content"] for chunk in chunks]


async def test_a_stream_arrives_complete_with_times_and_ollamas_last_object(bench: Bench) -> None:
    bench.standin.script.tokens = 20
    bench.standin.script.numbered = True
    number = bench.send("generate", model=TINY, prompt="hello")
    result = await bench.session.result(number)
    assert words(bench.session, number) == [f" {n}" for n in range(20)]
    assert result["final"]["done"] is True
    assert result["final"]["eval_count"] >= 20
    times = [item.t_us for item in bench.session.streams[number].items]
    assert times == sorted(times)
    assert result["t_us"] >= times[-1] > 0


async def test_2000_tokens_split_byte_by_byte_arrive_complete_and_in_order(bench: Bench) -> None:
    script = bench.standin.script
    script.tokens, script.numbered, script.split_bytes, script.lines_per_write = 2_000, True, 1, 500
    number = bench.send("generate", model=TINY, prompt="hello", options={"num_predict": 2_000})
    async with asyncio.timeout(90):
        await bench.session.streams.setdefault(number, bench.session.open_stream(number)).has(2_000)
    result = await bench.session.result(number)
    assert words(bench.session, number) == [f" {n}" for n in range(2_000)]
    assert result["final"]["done_reason"] in ("stop", "length")


async def test_chat_streams_messages(bench: Bench) -> None:
    bench.standin.script.tokens = 3
    number = bench.send("chat", model=TINY, messages=[{"role": "user", "content": "hello"}])
    assert (await bench.session.result(number))["final"]["done"] is True
    assert len(words(bench.session, number)) == 3


async def test_several_streams_at_once_each_have_their_own_final(bench: Bench) -> None:
    bench.standin.script.num_parallel = 8
    bench.standin.script.tokens = 30
    numbers = [bench.send("generate", model=TINY, prompt=f"p{n}") for n in range(8)]
    for number in numbers:
        assert (await bench.session.result(number))["final"]["done"] is True
        assert len(bench.session.streams[number].items) == 30


async def test_what_ollama_gets_is_the_request_within_the_policy(bench: Bench) -> None:
    fields = {"model": TINY, "prompt": "x", "options": {"temperature": 0, "num_ctx": 10_000_000, "new": 1}}
    await bench.result("generate", **fields, stream=False, a_new_field=[1])
    asked = [r for r in bench.standin.requests if r.path == "/api/generate"][-1]
    body = json.loads(asked.body)
    assert body["stream"] is True
    assert body["options"] == {"temperature": 0, "num_ctx": 131_072, "new": 1, "num_predict": 16_384}
    assert body["a_new_field"] == [1]


async def hanging(bench: Bench) -> int:
    """A stream that stopped talking after some tokens."""
    script = bench.standin.script
    script.tokens, script.ending, script.ending_after = 50, "hang", 5
    number = bench.send("generate", model=TINY, prompt="x")
    await until(lambda: number in bench.session.streams)
    async with asyncio.timeout(20):
        await bench.session.streams[number].has(5)
    assert bench.standin.open_streams == 1
    return number


async def test_cancel_closes_ollamas_connection_at_once(bench: Bench) -> None:
    number = await hanging(bench)
    assert await bench.result("cancel", id=number) == {"state": "cancelling"}
    error = await bench.session.error(number)
    assert error.code == -32004
    assert error.data is not None
    assert error.data.stream is not None
    assert error.data.stream.next_seq == 5
    await until(lambda: bench.standin.open_streams == 0)


async def test_the_end_of_the_session_closes_ollamas_connection_at_once(bench: Bench) -> None:
    await hanging(bench)
    bench.session.alive = False
    bench.dispatcher.session_ended(bench.session)
    await until(lambda: bench.standin.open_streams == 0)
    assert bench.dispatcher.in_flight == 0


async def test_a_reader_that_stops_stops_ollama_and_the_pause_is_told(
    standin: StandIn, tmp_path: Path
) -> None:
    async with Bench(standin, tmp_path) as bench:
        bench.session.window = 4
        standin.script.tokens, standin.script.decode_tps = 12, 200.0
        number = bench.send("generate", model=TINY, prompt="x")
        await until(lambda: number in bench.session.streams)
        sink = bench.session.streams[number]
        async with asyncio.timeout(20):
            await sink.has(4)
        held = len(sink.items)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(sink.items) == held, "nothing is read meanwhile"
        sink.grant(1000)
        await bench.session.result(number)
        assert len(sink.items) == 12
        assert held < 12
        assert sink.items[held].paused_us == 250_000
        assert all(item.paused_us is None for n, item in enumerate(sink.items) if n != held)


ENDINGS: list[tuple[dict[str, Any], str]] = [
    ({"ending": "no_final_line"}, "stream_incomplete"),
    ({"ending": "repeat"}, "stream_incomplete"),
    ({"ending": "error"}, "ollama_error"),
    ({"ending": "runner_killed"}, "ollama_error"),
    ({"ending": "close"}, "stream_incomplete"),
    ({"ending": "cut"}, "stream_incomplete"),
    ({"ending": "reset"}, "stream_incomplete"),
    ({"ending": "broken_line"}, "ollama_error"),
    ({"answer": "html"}, "ollama_error"),
    ({"answer": "busy"}, "ollama_error"),
    ({"answer": "load_fails"}, "ollama_error"),
    ({"answer": "reset"}, "ollama_unavailable"),
    ({"answer": "garbage"}, "ollama_error"),
]


@pytest.mark.parametrize(("behaviour", "kind"), ENDINGS, ids=[str(*e[0].values()) for e in ENDINGS])
async def test_each_bad_end_of_ollama_is_a_typed_error_and_the_agent_goes_on(
    bench: Bench, behaviour: dict[str, Any], kind: str
) -> None:
    script = bench.standin.script
    script.answer = behaviour.get("answer", "ollama")
    script.once.append(Behaviour(tokens=40, **behaviour))
    number = bench.send("generate", model=TINY, prompt="x")
    error = await bench.session.error(number)
    script.answer = "ollama"
    script.once.clear()
    assert error.data is not None
    assert error.data.kind in (kind, "busy")
    assert len(error.message) > 20
    assert (await bench.result("generate", model=TINY, prompt="x"))["final"]["done"] is True


async def test_ollama_stopped_in_mid_stream_and_absent_and_back(bench: Bench) -> None:
    number = await hanging(bench)
    await bench.standin.stop()
    error = await bench.session.error(number)
    assert error.code == -32011
    assert (await bench.refusal("generate", model=TINY, prompt="x"))[0] == "ollama_unavailable"
    assert (await bench.refusal("list_models"))[0] == "ollama_unavailable"
    bench.standin.script.ending = "done"
    await bench.standin.start()
    assert (await bench.result("generate", model=TINY, prompt="x"))["final"]["done"] is True


async def test_an_unknown_model_is_model_not_found(bench: Bench) -> None:
    for method, more in (
        ("generate", {"prompt": "x"}),
        ("chat", {"messages": []}),
        ("embed", {"input": "x"}),
    ):
        assert (await bench.refusal(method, model="nobody-has-this", **more))[0] == "model_not_found"


async def test_an_image_of_5_mib_comes_as_a_blob_and_reaches_ollama_whole(bench: Bench) -> None:
    image = bytes(range(256)) * (5 << 12)
    piece = 600_000
    for offset in range(0, len(image), piece):
        data = image[offset : offset + piece]
        last = offset + piece >= len(image)
        await bench.result(
            "blob.put", blob="photo", offset=offset, data=base64.b64encode(data).decode(), last=last
        )
    number = bench.send("generate", model=TINY, prompt="what is this?", images=[{"blob": "photo"}])
    answer = await bench.session.answer(number)
    assert not isinstance(answer, WireError) or answer.code == -32007, "at most Ollama itself refuses images"
    asked = [r for r in bench.standin.requests if r.path == "/api/generate"][-1]
    assert base64.b64decode(json.loads(asked.body)["images"][0]) == image


async def test_embeddings_come_as_ollama_sends_them(bench: Bench) -> None:
    result = await bench.result("embed", model="standin-embed", input=["a", "b"])
    assert len(result["embeddings"]) == 2


@pytest.mark.parametrize(
    ("method", "params", "model"),
    [
        ("embed", {"input": "x"}, TINY),
        ("generate", {"prompt": "x"}, "standin-embed"),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, "standin-embed"),
    ],
)
async def test_what_a_model_cannot_do_is_unsupported_and_ollama_is_not_asked(
    bench: Bench, method: str, params: dict[str, Any], model: str
) -> None:
    assert await bench.refusal(method, model=model, **params) == ("unsupported", None)
    assert not [request for request in bench.standin.requests if request.path == f"/api/{method}"]


async def test_generation_beside_a_benchmark_is_held_off_if_the_owner_says_so(
    standin: StandIn, tmp_path: Path
) -> None:
    async with Bench(standin, tmp_path, during="refuse") as bench:
        with bench.traffic.benchmark("job-7") as noted:
            refused = await bench.refusal("generate", model=TINY, prompt="x")
            assert refused == ("busy", "benchmark.during_benchmark")
            assert not noted
        assert (await bench.result("generate", model=TINY, prompt="x"))["final"]["done"] is True


async def test_generation_beside_a_benchmark_is_counted(bench: Bench) -> None:
    before = await hanging(bench)
    with bench.traffic.benchmark("job-7") as noted:
        bench.standin.script.ending = "done"
        await bench.result("embed", model="standin-embed", input="x")
    assert noted == {"generate": 1, "embed": 1}
    await bench.result("cancel", id=before)
