"""The client against the stand-in, and against servers that misbehave as no stand-in would."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from obt_agent.config.schema import OllamaConfig
from obt_agent.errors import (
    AgentError,
    DeadlineExceeded,
    ModelNotFound,
    OllamaError,
    OllamaUnavailable,
    StreamIncomplete,
    TooLarge,
)
from obt_agent.ollama.client import OllamaClient, OllamaStream
from obt_agent.protocol.errors import to_wire
from obt_standin import Model, Script, Stall, StandIn
from tests.ollama.raw_server import chunked, head, read_request, replying, serving

DONE = b'{"response":"","done":true}\n'
PARTIAL = b'{"response":"x","done":false}\n'


def request(model: str = "standin-small", **fields: Any) -> bytes:
    return json.dumps({"model": model, "prompt": "Why?", **fields}).encode()


def client_of(
    url: str,
    *,
    attempts: int = 1,
    max_line_bytes: int = 1 << 20,
    max_body_bytes: int = 64 << 20,
    **config: Any,
) -> OllamaClient:
    return OllamaClient(
        OllamaConfig(url=url, **config),
        attempts=attempts,
        max_line_bytes=max_line_bytes,
        max_body_bytes=max_body_bytes,
    )


async def read_all(
    client: OllamaClient, got: list[str], each: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Read a stream into ``got``, and do something after each batch."""
    async with client.stream("/api/generate", request()) as stream:
        async for batch in stream.batches():
            got += [json.loads(line.raw)["response"] for line in batch]
            if each is not None:
                await each()


async def texts(stream: OllamaStream) -> list[str]:
    return [json.loads(line.raw)["response"] async for batch in stream.batches() for line in batch]


async def failure(url: str, body: bytes | None = None, **values: Any) -> AgentError:
    """The error in which a stream ends."""
    with pytest.raises(AgentError) as caught:
        async with (
            asyncio.timeout(30),
            client_of(url, **values) as client,
            client.stream("/api/generate", body or request()) as stream,
        ):
            await texts(stream)
    return caught.value


@pytest.mark.slow
async def test_ten_thousand_tokens_arrive_complete_and_in_order_though_bytes_come_one_by_one(
    standin: StandIn,
) -> None:
    standin.script.tokens, standin.script.numbered, standin.script.split_bytes = 10_000, True, 1
    async with (
        asyncio.timeout(100),
        client_of(standin.url) as client,
        client.stream("/api/generate", request()) as stream,
    ):
        assert await texts(stream) == [f" {number}" for number in range(10_000)]
        assert json.loads(stream.final.raw)["eval_count"] == 10_001


async def test_a_read_of_a_single_byte_is_no_trouble() -> None:
    whole = head(200, "application/x-ndjson", "Transfer-Encoding: chunked") + chunked(*[PARTIAL] * 5, DONE)

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for place in range(len(whole)):
            writer.write(whole[place : place + 1])
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with (
        serving(peer) as url,
        client_of(url) as client,
        client.stream("/api/generate", request()) as stream,
    ):
        assert await texts(stream) == ["x"] * 5


async def test_times_are_those_of_the_arrival_however_late_they_are_read(standin: StandIn) -> None:
    standin.script.tokens, standin.script.decode_tps, standin.script.ttft_s = 20, 40.0, 0.05
    async with (
        client_of(standin.url) as client,
        client.stream("/api/generate", request()) as stream,
    ):
        await standin.wait_for(lambda ollama: ollama.requests[0].ended == "complete")
        lines = [line async for batch in stream.batches() for line in batch]
    written = [(at_ns - stream.t_sent_ns) / 1000 for at_ns, _ in standin.requests[0].writes]
    assert len(lines) == 20
    gaps = [line.t_us - at_us for line, at_us in zip(lines, written, strict=False)]
    assert all(gap >= 0 for gap in gaps)
    assert [line.t_us for line in lines] == sorted(line.t_us for line in lines)
    assert lines[0].t_us < written[-1]  # all were read together, after the last one was written
    assert lines[0].t_us >= 50_000


async def test_a_reader_that_pauses_holds_ollama_back_and_loses_nothing(standin: StandIn) -> None:
    standin.script.tokens, standin.script.numbered, standin.script.lines_per_write = 60_000, True, 1000
    async with (
        asyncio.timeout(60),
        client_of(standin.url) as client,
        client.stream("/api/generate", request()) as stream,
    ):
        held = 0
        while not held or held != len(standin.requests[0].writes):
            held = len(standin.requests[0].writes)
            for _ in range(1000):  # Ollama writes on until the sockets are full
                await asyncio.sleep(0)
        assert held < 60
        lines = [line async for batch in stream.batches() for line in batch]
    assert [json.loads(line.raw)["response"] for line in lines] == [f" {number}" for number in range(60_000)]
    stamps = [line.t_us for line in lines]
    assert stamps == sorted(stamps)


async def test_every_field_of_a_request_reaches_ollama_as_it_was_sent(standin: StandIn) -> None:
    body = request(think=False, unknown={"a": [1]}, options={"num_ctx": 8, "nosuch": None}, format="json")
    async with client_of(standin.url) as client, client.stream("/api/generate", body) as stream:
        await texts(stream)
    exchange = standin.requests[0]
    assert exchange.body == body
    assert exchange.headers["accept-encoding"] == "identity"
    assert exchange.headers["content-type"] == "application/json"
    assert "cookie" not in exchange.headers


async def test_leaving_a_stream_closes_ollamas_connection_at_once(standin: StandIn) -> None:
    standin.script.tokens, standin.script.decode_tps = 10_000, 100.0
    async with asyncio.timeout(20), client_of(standin.url) as client:
        async with client.stream("/api/generate", request()) as stream:
            async for _ in stream.batches():
                break
        await standin.wait_for(lambda ollama: ollama.requests[0].ended == "client_closed")
    assert len(standin.requests[0].writes) < 100


@pytest.mark.parametrize("moment", ["waiting for headers", "reading"])
async def test_cancelling_closes_ollamas_connection_at_once_and_stays_a_cancellation(
    moment: str, standin: StandIn
) -> None:
    standin.script.tokens, standin.script.decode_tps = 100, 100.0
    if moment == "waiting for headers":
        standin.script.load_s = 60
    begun = asyncio.Event()

    async def generate(client: OllamaClient) -> None:
        async with client.stream("/api/generate", request()) as stream:
            async for _ in stream.batches():
                begun.set()

    async with asyncio.timeout(20), client_of(standin.url) as client:
        task = asyncio.create_task(generate(client))
        if moment == "reading":
            await begun.wait()
        else:
            await standin.wait_for(lambda ollama: len(ollama.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await standin.wait_for(lambda ollama: ollama.requests[0].ended == "client_closed")


async def test_a_generation_longer_than_every_deadline_ends_well_while_bytes_keep_coming(
    standin: StandIn,
) -> None:
    standin.script.tokens, standin.script.decode_tps = 60, 50.0
    limits = {"between_bytes_timeout_s": 1.0, "first_byte_timeout_s": 1.0, "request_timeout_s": 0.5}
    async with (
        OllamaClient(OllamaConfig(url=standin.url, **limits)) as client,
        client.stream("/api/generate", request()) as stream,
    ):
        assert len(await texts(stream)) == 60


async def test_no_headers_within_the_first_byte_deadline_is_a_timeout_that_names_its_key(
    standin: StandIn,
) -> None:
    standin.script.load_s = 60
    error = await failure(standin.url, first_byte_timeout_s=0.05)
    assert isinstance(error, DeadlineExceeded)
    assert "ollama.first_byte_timeout_s" in error.message
    assert error.detail == {"waited_for": "first byte", "limit_s": 0.05}


async def test_silence_in_mid_stream_is_a_timeout_and_closes_the_connection(standin: StandIn) -> None:
    standin.script.ending = "hang"
    error = await failure(standin.url, between_bytes_timeout_s=0.05)
    assert isinstance(error, DeadlineExceeded)
    assert "between_bytes_timeout_s" in error.message
    async with asyncio.timeout(20):
        await standin.wait_for(lambda ollama: ollama.requests[0].ended == "client_closed")


async def test_a_pull_may_be_silent_for_longer_than_a_generation(standin: StandIn) -> None:
    standin.script.registry, standin.script.pull_s = [Model(name="new:latest")], 2.0
    limits = {"between_bytes_timeout_s": 0.01, "first_byte_timeout_s": 30.0}
    async with (
        OllamaClient(OllamaConfig(url=standin.url, **limits)) as client,
        client.stream("/api/pull", b'{"model":"new"}') as stream,
    ):
        async for _ in stream.batches():
            pass
        assert stream.final.t_us >= 2_000_000


async def test_time_that_was_ours_does_not_count_towards_the_deadline(standin: StandIn) -> None:
    standin.script.tokens, standin.script.stalls = 3, (Stall(1, 1.5),)
    async with (
        client_of(standin.url, between_bytes_timeout_s=1.0) as client,
        client.stream("/api/generate", request()) as stream,
    ):
        asyncio.get_running_loop().call_later(0.2, stream.paused, 10_000_000)
        assert len(await texts(stream)) == 3
        stream.paused(1)  # nothing waits now


async def test_a_port_where_nothing_listens_is_unavailable_and_says_how_to_start(standin: StandIn) -> None:
    await standin.stop()
    error = await failure(standin.url)
    assert isinstance(error, OllamaUnavailable)
    assert "ollama serve" in error.message
    assert error.retryable


async def test_a_connection_that_is_never_taken_is_a_timeout() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):  # they fill the queue, so that the next one is not even greeted
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        error = await failure(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout_s=0.05)
    assert isinstance(error, DeadlineExceeded)
    assert "connect_timeout_s" in error.message


@pytest.mark.parametrize("ending", ["close", "cut", "reset"])
async def test_a_connection_that_breaks_in_mid_stream_is_incomplete_after_its_good_lines(
    ending: Any, standin: StandIn
) -> None:
    standin.script.ending, standin.script.ending_after = ending, 5
    error = await failure(standin.url)
    assert isinstance(error, StreamIncomplete)
    assert error.detail["cause"] == "connection_lost"
    assert error.retryable


async def test_ollama_stopped_in_mid_stream_is_incomplete_and_the_client_goes_on(standin: StandIn) -> None:
    standin.script.tokens, standin.script.decode_tps = 10_000, 100.0
    async with asyncio.timeout(30), client_of(standin.url) as client:
        with pytest.raises(StreamIncomplete, match="stopped or killed"):
            await read_all(client, [], standin.stop)
        with pytest.raises(OllamaUnavailable):
            await client.version()
        await standin.start()
        assert await client.version() == "0.33.0-standin"


async def test_a_stream_that_just_ends_is_incomplete_after_all_its_lines(standin: StandIn) -> None:
    standin.script.ending, standin.script.tokens = "no_final_line", 7
    error = await failure(standin.url)
    assert isinstance(error, StreamIncomplete)
    assert error.detail == {"cause": "no_final_line", "lines": 7}


async def test_endless_repetition_is_incomplete_and_says_what_to_change(standin: StandIn) -> None:
    standin.script.ending, standin.script.tokens = "repeat", 500
    error = await failure(standin.url)
    assert isinstance(error, StreamIncomplete)
    assert error.detail == {"cause": "no_final_line", "lines": 31}
    assert "repeat_penalty" in error.message


async def test_an_error_with_status_200_in_one_piece_is_an_error() -> None:
    body = b'{"error":"model \'x\' not found"}'
    reply = head(200, "application/json", f"Content-Length: {len(body)}") + body
    async with serving(replying(reply)) as url, client_of(url) as client:
        with pytest.raises(ModelNotFound):
            await client.call("/api/generate", b"{}")


async def test_endless_repetition_in_one_piece_is_incomplete_too(standin: StandIn) -> None:
    standin.script.ending, standin.script.tokens = "repeat", 500
    async with client_of(standin.url) as client:
        with pytest.raises(StreamIncomplete):
            await client.call("/api/generate", request(stream=False))


async def test_a_killed_runner_is_an_error_that_may_be_retried_and_the_retry_works(standin: StandIn) -> None:
    standin.script.tokens, standin.script.decode_tps = 1000, 200.0

    async def kill() -> None:
        standin.kill_runner()

    async with asyncio.timeout(30), client_of(standin.url) as client:
        with pytest.raises(OllamaError, match="loads the model again") as caught:
            await read_all(client, [], kill)
        assert caught.value.retryable
        standin.script.tokens = 3
        async with client.stream("/api/generate", request()) as stream:
            assert len(await texts(stream)) == 3


@pytest.mark.parametrize(
    ("answer", "words", "retryable"),
    [
        ("html", "not Ollama", False),
        ("garbage", "not Ollama", False),
        ("busy", "OLLAMA_MAX_QUEUE", True),
        ("load_fails", "smaller model", False),
        ("reset", "restarting", True),
    ],
)
async def test_each_refusal_is_typed_and_says_what_to_do(
    answer: Any, words: str, retryable: bool, standin: StandIn
) -> None:
    standin.script.answer = answer
    error = await failure(standin.url)
    assert isinstance(error, OllamaError)
    assert words in error.message
    assert error.retryable == retryable


async def test_an_unknown_model_says_how_to_pull_it(standin: StandIn) -> None:
    error = await failure(standin.url, request("nosuch:7b"))
    assert isinstance(error, ModelNotFound)
    assert "ollama pull nosuch:7b" in error.message
    assert error.detail["model"] == "nosuch:7b"


async def test_an_error_line_in_mid_stream_comes_after_the_lines_before_it(standin: StandIn) -> None:
    standin.script.ending, standin.script.ending_after = "error", 3
    standin.script.error = "something odd in /usr/share/ollama/.ollama/models/blobs/sha256-1"
    got: list[str] = []
    async with client_of(standin.url) as client:
        with pytest.raises(OllamaError, match="something odd") as caught:
            await read_all(client, got)
    assert len(got) == 3
    assert "/usr/share" not in f"{caught.value.message}{caught.value.detail}"


@pytest.mark.parametrize(
    ("tail", "words", "kind"),
    [
        (b"<html>\n", "not one JSON object", OllamaError),
        (b'{"response":"\xff","done":false}\n', "not UTF-8", OllamaError),
        (b'{"a":' * 70 + b"1" + b"}" * 70 + b"\n", "deeper than 60", OllamaError),
        (b'{"response":"' + b"x" * 3000 + b'","done":false}\n', "longer than 2000 bytes", TooLarge),
        (b'{"response":"' + b"x" * 3000, "longer than 2000 bytes", TooLarge),
        (DONE + PARTIAL, "after its final one", OllamaError),
        (b'{"error":{"code":500}}\n', "code", OllamaError),
    ],
)
async def test_a_line_that_breaks_the_form_ends_the_stream_after_the_good_lines(
    tail: bytes, words: str, kind: type[AgentError]
) -> None:
    reply = head(200, "application/x-ndjson", "Transfer-Encoding: chunked") + chunked(PARTIAL + tail)
    got: list[str] = []
    async with serving(replying(reply)) as url, client_of(url, max_line_bytes=2000) as client:
        with pytest.raises(kind, match=words):
            await read_all(client, got)
    assert got == ["x"]


async def test_a_final_line_without_its_newline_is_final() -> None:
    reply = head(200, "application/json; charset=utf-8", "Content-Length: 27") + DONE.strip()
    async with (
        serving(replying(reply)) as url,
        client_of(url) as client,
        client.stream("/api/generate", request()) as stream,
    ):
        with pytest.raises(RuntimeError):
            _ = stream.final
        assert await texts(stream) == []
        assert stream.final.raw == DONE.strip()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (head(302, None, "Location: http://127.0.0.1:1/", "Content-Length: 0"), "answers 302"),
        (head(200, "application/json", "Content-Encoding: gzip", "Content-Length: 1") + b"x", "compresses"),
        (head(401, "text/plain", "Content-Length: 2") + b"no", "asks for a password"),
        (head(502, "text/plain", "Content-Length: 2") + b"no", "in front of Ollama"),
        (head(502, "text/html", "Content-Length: 6") + b"<html>", "in front of Ollama answers 502"),
        (head(404, "text/html", "Content-Length: 2") + b"<p", "not Ollama"),
        (head(500, "application/json", "Content-Length: 50") + b"{", "answers 500"),
        (head(500, "application/json", "Content-Length: 2") + b"{}", "answers 500"),
        (head(200, "application/json", "Content-Length: 50") + b"{", "broke off|broke after"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broke|not Ollama"),
        (b"\x00\x01\x02", "restarting|not Ollama"),
        (b"", "restarting"),
    ],
)
async def test_what_no_ollama_sends_is_a_typed_error(reply: bytes, words: str) -> None:
    async with serving(replying(reply)) as url:
        error = await failure(url)
        assert isinstance(error, OllamaError)
        with pytest.raises(OllamaError, match=words):
            async with client_of(url) as client:
                await client.call("/api/generate", request(stream=False))


async def test_a_refusal_whose_body_never_comes_is_still_a_refusal() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(head(500, "application/json", "Content-Length: 50"))
        await writer.drain()
        await reader.read()

    async with serving(peer) as url:
        error = await failure(url, request_timeout_s=0.05)
    assert "500" in error.message


async def test_a_body_without_end_is_refused_at_its_limit() -> None:
    reply = head(200, "application/json", "Transfer-Encoding: chunked") + chunked(b" " * 5000)
    async with serving(replying(reply)) as url, client_of(url, max_body_bytes=4000) as client:
        with pytest.raises(TooLarge, match="4000 bytes"):
            await client.version()


async def test_short_requests_have_a_deadline_of_their_own(standin: StandIn) -> None:
    standin.script.answer = "hang"
    async with client_of(standin.url, request_timeout_s=0.05) as client:
        with pytest.raises(DeadlineExceeded, match="request_timeout_s"):
            await client.version()


async def test_an_answer_in_one_piece_that_stops_in_the_middle_is_a_timeout() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(head(200, "application/json", "Content-Length: 50") + b"{")
        await writer.drain()
        await reader.read()

    async with serving(peer) as url, client_of(url, between_bytes_timeout_s=0.05) as client:
        with pytest.raises(DeadlineExceeded, match="between_bytes"):
            await client.call("/api/embed", b"{}")


async def test_only_idempotent_gets_are_tried_again() -> None:
    met: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append((await read_request(reader)).split(b" ", 1)[0])
        if len(met) == 3:
            writer.write(head(200, "application/json", "Content-Length: 15") + b'{"version":"1"}')
            await writer.drain()

    async with serving(peer) as url, OllamaClient(OllamaConfig(url=url), attempts=3) as client:
        assert await client.version() == "1"
        for act in (client.show("x"), client.call("/api/embed", b"{}"), client.delete("x")):
            with pytest.raises(OllamaUnavailable):
                await act
    assert met == [b"GET"] * 3 + [b"POST", b"POST", b"DELETE"]


@pytest.mark.parametrize("model", ["standin-small", "standin-embed"])
async def test_loading_and_unloading_show_in_the_list_of_loaded_models(model: str, standin: StandIn) -> None:
    async with client_of(standin.url) as client:
        assert (await client.running()).models == ()
        assert await client.load(model, keep_alive="5m", options=b'{"num_ctx":1024}') >= 0
        (running,) = (await client.running()).models
        assert running.name == f"{model}:latest"
        assert running.context_length == 1024
        assert await client.unload(model) >= 0
        assert (await client.running()).models == ()


async def test_loading_what_is_not_there_is_model_not_found(standin: StandIn) -> None:
    async with client_of(standin.url) as client:
        with pytest.raises(ModelNotFound):
            await client.load("nosuch")


async def test_models_are_copied_and_deleted(standin: StandIn) -> None:
    async with client_of(standin.url) as client:
        await client.copy("standin-small", "again")
        assert "again:latest" in {model.name for model in (await client.installed()).models}
        await client.delete("again")
        assert "again:latest" not in {model.name for model in (await client.installed()).models}
        assert b'"model_info"' in await client.show("standin-small", verbose=True)


async def test_a_pull_streams_its_progress_and_ends_with_success(standin: StandIn) -> None:
    standin.script.registry = [Model(name="new:latest")]
    async with (
        client_of(standin.url) as client,
        client.stream("/api/pull", b'{"model":"new"}') as stream,
    ):
        steps = [json.loads(line.raw) async for batch in stream.batches() for line in batch]
        assert json.loads(stream.final.raw) == {"status": "success"}
    assert any(step.get("completed") for step in steps)


async def test_a_prompt_of_five_mebibytes_goes_through(standin: StandIn) -> None:
    body = request(images=["A" * (5 << 20)])
    async with client_of(standin.url) as client:
        with pytest.raises(OllamaError, match="multimodal"):
            await client.call("/api/generate", body)
    assert standin.requests[0].body == body


async def test_streams_run_side_by_side(standin: StandIn) -> None:
    standin.script.num_parallel, standin.script.numbered, standin.script.tokens = 8, True, 50

    async def one(client: OllamaClient) -> list[str]:
        async with client.stream("/api/generate", request()) as stream:
            return await texts(stream)

    async with client_of(standin.url) as client:
        found = await asyncio.gather(*(one(client) for _ in range(8)))
    assert found == [[f" {number}" for number in range(50)]] * 8


async def test_a_client_outside_its_context_says_so() -> None:
    client = OllamaClient(OllamaConfig())
    with pytest.raises(RuntimeError, match="outside its context"):
        await client.version()
    with suppress(RuntimeError):
        await client.__aexit__(None, None, None)


async def test_the_clock_starts_when_the_request_is_sent(standin: StandIn) -> None:
    before = time.monotonic_ns()
    async with (
        client_of(standin.url) as client,
        client.stream("/api/generate", request()) as stream,
    ):
        assert before < stream.t_sent_ns <= standin.requests[0].began_ns
        await texts(stream)
        assert stream.final.t_us > 0


def test_scripts_say_that_they_are_no_ollama() -> None:
    assert "standin" in Script().version


@pytest.mark.parametrize("status", [200, 500])
async def test_a_content_type_that_is_no_utf_8_gives_an_error_that_can_be_sent(status: int) -> None:
    reply = head(status, "text/html", "Content-Length: 2").replace(b"html", b"\xff") + b"xx"
    async with serving(replying(reply)) as url, client_of(url, attempts=1) as client:
        with pytest.raises(OllamaError) as caught:
            await client.installed()
    assert msgspec.json.encode(to_wire(caught.value))
