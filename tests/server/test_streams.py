"""Streams and live series: order, credit, stalled readers, texts in pieces, many viewers of one watch."""

import asyncio
import base64
import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from obt_agent.errors import AgentError, NotPermitted, ProtocolError, TooLarge
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.errors import StreamEnd
from obt_agent.protocol.streams import LargeFinal, SeriesFinal, SeriesItem
from tests.server.agent_double import AgentDouble, Answer, never
from tests.server.conftest import Running, running

MODEL = b'{"model":"m","prompt":"p"}'


def chunk(text: str) -> bytes:
    return msgspec.json.encode({"response": text, "done": False})


async def collect(server: Running, agent: AgentDouble) -> tuple[list[Any], Any]:
    items: list[Any] = []
    async with server.parts.hub.stream(agent.agent_id, "generate", MODEL) as stream:
        async for batch in stream.text_batches():
            items += [msgspec.json.decode(item) for item in batch]
        return items, msgspec.json.decode(stream.result_text)


async def test_ten_thousand_tokens_arrive_complete_and_in_order_under_credit(server: Running) -> None:
    sent = [0]

    async def generate(agent: AgentDouble, request: Request) -> Answer:
        for start in range(0, 10_000, 50):
            texts = [chunk(str(n)) for n in range(start, start + 50)]
            await agent.until(lambda: 32768 + agent.credit.get(request.id, 0) > sent[0])
            sent[0] += sum(map(len, texts)) + 50 * 20 + 100
            await agent.stream(request, *texts)
        return agent.final(request)

    async with server.agent() as agent:
        agent.handlers["generate"] = generate
        items, result = await collect(server, agent)
        assert agent.link_credit > 131072, "the link's credit came back too"
    assert [item["chunk"]["response"] for item in items] == [str(n) for n in range(10_000)]
    assert result["stream"]["next_seq"] == 200
    assert sent[0] > 10 * 32768


async def test_a_reader_that_stops_gets_no_more_credit_and_stalls_no_other_stream(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["generate"] = never
        hub = server.parts.hub
        async with hub.stream(agent.agent_id, "generate", MODEL) as stopped:
            await agent.until(lambda: len(agent.requests) == 1)
            asked = agent.requests[0]
            for _ in range(4):
                await agent.stream(asked, chunk("x" * 8000))
            agent.handlers["generate"] = quick
            items, _ = await collect(server, agent)
            assert len(items) == 1, "another stream goes on"
            assert asked.id not in agent.credit, "nobody has read the first one"
            assert agent.link_credit >= 131072 - 8000, "and yet the link is free for others"
            iterator = stopped.text_batches()
            for _ in range(4):
                await anext(iterator)
            await agent.until(lambda: agent.credit.get(asked.id, 0) >= 32000)


async def quick(agent: AgentDouble, request: Request) -> Answer:
    await agent.stream(request, chunk("quick"))
    return agent.final(request)


async def test_a_hole_in_the_sequence_ends_the_stream_and_cancels_it(server: Running) -> None:
    async def generate(agent: AgentDouble, request: Request) -> Answer:
        await agent.stream(request, chunk("a"), seq=1)
        return None

    async with server.agent() as agent:
        agent.handlers["generate"] = generate
        with pytest.raises(ProtocolError, match="seq 1; 0 was expected"):
            await collect(server, agent)
        await agent.until(lambda: agent.requests[-1].method == "cancel")


async def test_a_large_item_in_pieces_arrives_whole(server: Running) -> None:
    text = "é" * 200_000
    whole = msgspec.json.encode({"t_us": 5, "chunk": {"response": text}}).decode()

    async def generate(agent: AgentDouble, request: Request) -> Answer:
        for start in range(0, len(whole), 12_000):
            await agent.piece(request, whole[start : start + 12_000], more=start + 12_000 < len(whole))
        await agent.stream(request, chunk("next"))
        return agent.final(request)

    async with server.agent() as agent:
        agent.handlers["generate"] = generate
        items, _ = await collect(server, agent)
    assert [item["chunk"]["response"] for item in items] == [text, "next"]


async def test_pieces_behind_an_unread_item_get_no_credit(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["generate"] = never
        async with server.parts.hub.stream(agent.agent_id, "generate", MODEL) as stream:
            await agent.until(lambda: bool(agent.requests))
            asked = agent.requests[0]
            await agent.stream(asked, chunk("unread"))
            whole = msgspec.json.encode({"t_us": 1, "chunk": {"response": "x" * 20_000}}).decode()
            await agent.piece(asked, whole[:10_000], more=True)
            await agent.piece(asked, whole[10_000:], more=False)
            await agent.sync_models()
            assert asked.id not in agent.credit
            await anext(stream.text_batches())
            await agent.until(lambda: agent.credit.get(asked.id, 0) > 20_000)


async def test_an_item_over_a_mebibyte_ends_the_stream(server: Running) -> None:
    async def generate(agent: AgentDouble, request: Request) -> Answer:
        for _ in range(40):
            await agent.piece(request, "x" * 30_000, more=True)
        return None

    async with server.agent() as agent:
        agent.handlers["generate"] = generate
        with pytest.raises(TooLarge, match="in pieces is over"):
            await collect(server, agent)


async def embed_large(agent: AgentDouble, request: Request) -> Answer:
    text = json.dumps({"embeddings": [[0.5] * 20_000]})
    for start in range(0, len(text), 24_000):
        await agent.piece(request, text[start : start + 24_000], more=start + 24_000 < len(text))
    return LargeFinal(
        bytes=len(text), sha256=hashlib.sha256(text.encode()).hexdigest(), stream=StreamEnd(next_seq=9)
    )


async def test_a_large_result_in_pieces_is_joined_and_held_against_its_hash(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["embed"] = embed_large
        path = f"/api/v1/agents/{agent.agent_id}/commands/embed"
        answer = await server.http.post(path, json={"model": "m", "input": "x"})
        assert answer.json() == {"embeddings": [[0.5] * 20_000]}

        async def corrupt(double: AgentDouble, request: Request) -> Answer:
            result = await embed_large(double, request)
            assert isinstance(result, LargeFinal)
            return msgspec.structs.replace(result, sha256="0" * 64)

        agent.handlers["embed"] = corrupt
        answer = await server.http.post(path, json={"model": "m", "input": "x"})
    assert answer.status_code == 400
    assert "sha256" in answer.json()["error"]["message"]


async def test_unfinished_answers_together_hold_no_more_than_they_may(tmp_path: Path) -> None:
    async with running(tmp_path, max_held_bytes=100_000) as server, server.agent() as agent:

        async def embed(double: AgentDouble, request: Request) -> Answer:
            for _ in range(8):
                await double.piece(request, "x" * 20_000, more=True)
            return None

        agent.handlers["embed"] = embed
        answer = await server.http.post(
            f"/api/v1/agents/{agent.agent_id}/commands/embed", json={"model": "m"}
        )
    assert answer.status_code == 413


async def test_items_in_answer_to_a_plain_command_are_refused(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["embed"] = quick
        answer = await server.http.post(
            f"/api/v1/agents/{agent.agent_id}/commands/embed", json={"model": "m"}
        )
    assert answer.status_code == 413
    assert "which has none" in answer.json()["error"]["message"]


async def test_a_final_before_the_last_piece_is_an_error(server: Running) -> None:
    async def generate(agent: AgentDouble, request: Request) -> Answer:
        await agent.piece(request, "half", more=True)
        return agent.final(request)

    async with server.agent() as agent:
        agent.handlers["generate"] = generate
        with pytest.raises(ProtocolError, match="before the last piece"):
            await collect(server, agent)


async def test_items_before_an_error_are_read_before_it(server: Running) -> None:
    async def generate(agent: AgentDouble, request: Request) -> Answer:
        await agent.stream(request, chunk("some"))
        return AgentError("broke")

    async with server.agent() as agent:
        agent.handlers["generate"] = generate
        async with server.parts.hub.stream(agent.agent_id, "generate", MODEL) as stream:
            iterator = stream.text_batches()
            assert b"some" in (await anext(iterator))[0]
            with pytest.raises(AgentError, match="broke"):
                await anext(iterator)


async def test_a_stream_that_brings_nothing_ends_after_its_silence(tmp_path: Path) -> None:
    async with running(tmp_path, stream_silence_s=0.05) as server, server.agent() as agent:
        agent.handlers["generate"] = never
        answer = await server.http.post(f"/api/v1/agents/{agent.agent_id}/commands/generate", content=MODEL)
    assert answer.status_code == 504


async def test_what_the_owner_forbids_is_answered_with_403_and_its_key(server: Running) -> None:
    async def forbidden(*_: object) -> Answer:
        return NotPermitted("generate is not allowed here", policy_key="policy.commands")

    async with server.agent() as agent:
        agent.handlers["generate"] = forbidden
        answer = await server.http.post(f"/api/v1/agents/{agent.agent_id}/commands/generate", content=MODEL)
    assert answer.status_code == 403
    assert answer.json()["error"]["detail"] == {"policy_key": "policy.commands"}


async def test_closing_the_request_cancels_the_stream_at_the_agent(server: Running) -> None:
    async def endless(agent: AgentDouble, request: Request) -> Answer:
        await agent.stream(request, chunk("first"))
        return None

    async with server.agent() as agent:
        agent.handlers["generate"] = endless
        path = f"/api/v1/agents/{agent.agent_id}/commands/generate"
        async with server.http.stream("POST", path, content=MODEL) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    break
        await agent.until(lambda: agent.requests[-1].method == "cancel")
        assert msgspec.json.decode(agent.requests[-1].params) == {"id": agent.requests[0].id}


async def test_a_five_mebibyte_image_goes_ahead_in_pieces_and_the_request_names_it(server: Running) -> None:
    picture = bytes(range(256)) * (5 << 12)
    blobs: dict[str, bytearray] = {}

    async def blob_put(_: AgentDouble, request: Request) -> Answer:
        piece = msgspec.json.decode(request.params)
        held = blobs.setdefault(piece["blob"], bytearray())
        assert piece["offset"] == len(held)
        held += base64.b64decode(piece["data"], validate=True)
        return {"blob": piece["blob"], "bytes": len(held)}

    async with server.agent() as agent:
        agent.handlers |= {"blob.put": blob_put, "generate": quick}
        params = {"model": "m", "prompt": "p", "images": [base64.b64encode(picture).decode()]}
        answer = await server.http.post(f"/api/v1/agents/{agent.agent_id}/commands/generate", json=params)
        assert answer.status_code == 200, answer.text
        assert "event: final" in answer.text
        sent = msgspec.json.decode(agent.requests[-1].params)
    assert bytes(blobs[sent["images"][0]["blob"]]) == picture


async def test_a_chats_images_go_ahead_too_and_what_is_no_base64_is_refused(server: Running) -> None:
    async def blob_put(_: AgentDouble, request: Request) -> Answer:
        return {"blob": msgspec.json.decode(request.params)["blob"], "bytes": 1}

    async with server.agent() as agent:
        agent.handlers |= {"blob.put": blob_put, "chat": quick}
        path = f"/api/v1/agents/{agent.agent_id}/commands/chat"
        large = "QUJD" * 400_000
        messages = [{"role": "user", "content": "?", "images": [large, {"blob": "kept"}]}]
        assert (await server.http.post(path, json={"model": "m", "messages": messages})).status_code == 200
        sent = msgspec.json.decode(agent.requests[-1].params)["messages"][0]["images"]
        assert sent[1] == {"blob": "kept"}
        wrong = await server.http.post(path, json={"model": "m", "images": ["!" * 2_000_000]})
        assert (wrong.status_code, wrong.json()["error"]["kind"]) == (422, "invalid_params")
        too_much = await server.http.post(path, json={"model": "m", "prompt": "p" * 2_000_000})
        assert (too_much.status_code, too_much.json()["error"]["kind"]) == (413, "too_large")
        over = await server.http.post(path, json={"model": "m", "images": ["QUJD" * 6_000_000]})
        assert over.status_code == 413


async def test_a_command_over_the_agents_frame_limit_is_refused_here(server: Running) -> None:
    async with server.agent() as agent:
        answer = await server.http.post(
            f"/api/v1/agents/{agent.agent_id}/commands/embed", json={"model": "m", "input": "x" * 2_000_000}
        )
    assert answer.status_code == 413
    assert not agent.requests


# -- live series ------------------------------------------------------------------------------------------


def sample(n: int, missed: int = 0) -> msgspec.Raw:
    item = SeriesItem(t_us=n, n=n, missed=missed, sample={"n": n})
    return msgspec.Raw(msgspec.json.encode(item))


async def test_one_watch_on_the_wire_serves_many_viewers_and_ends_with_the_last(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["hardware_watch"] = never
        hub = server.parts.hub
        async with hub.watch_hardware(agent.agent_id, 500) as one:
            async with hub.watch_hardware(agent.agent_id, 500) as two:
                await agent.until(lambda: len(agent.requests) == 1)
                await agent.stream_items(agent.requests[0], sample(1))
                assert (await anext(aiter(one))).n == 1
                assert (await anext(aiter(two))).n == 1
            await agent.stream_items(agent.requests[0], sample(2))
            assert (await anext(aiter(one))).n == 2
            assert len(agent.requests) == 1
        await agent.until(lambda: agent.requests[-1].method == "cancel")
        async with hub.watch_hardware(agent.agent_id, 500):
            await agent.until(lambda: agent.requests[-1].method == "hardware_watch")


async def test_who_comes_while_the_last_viewer_leaves_gets_a_watch_of_his_own(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["hardware_watch"] = never
        hub = server.parts.hub
        async with contextlib.AsyncExitStack() as stack:
            first = hub.watch_hardware(agent.agent_id, 500)
            await first.__aenter__()
            await agent.until(lambda: len(agent.requests) == 1)
            leaving = asyncio.create_task(first.__aexit__(None, None, None))
            # One turn: its end has begun, and is not over.
            await asyncio.sleep(0)
            assert not leaving.done()
            second = await stack.enter_async_context(hub.watch_hardware(agent.agent_id, 500))
            await leaving
            await agent.until(lambda: [one.method for one in agent.requests].count("hardware_watch") == 2)
            await agent.stream_items(agent.requests[-1], sample(1))
            async with asyncio.timeout(20):
                assert (await anext(aiter(second))).n == 1


async def test_a_late_viewer_of_a_machine_gets_the_newest_sample_at_once(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["hardware_watch"] = never
        hub = server.parts.hub
        async with hub.watch_hardware(agent.agent_id, 60_000) as early:
            await agent.until(lambda: bool(agent.requests))
            await agent.stream_items(agent.requests[0], sample(1), sample(2))
            seen = aiter(early)
            assert [(await anext(seen)).n for _ in range(2)] == [1, 2]
            async with hub.watch_hardware(agent.agent_id, 60_000) as late, asyncio.timeout(20):
                assert (await anext(aiter(late))).n == 2


async def test_another_interval_is_another_watch(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["hardware_watch"] = never
        hub = server.parts.hub
        async with hub.watch_hardware(agent.agent_id, 500), hub.watch_hardware(agent.agent_id, 1000):
            await agent.until(lambda: len(agent.requests) == 2)


async def test_a_slow_viewer_loses_the_oldest_and_learns_how_many(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["hardware_watch"] = never
        async with server.parts.hub.watch_hardware(agent.agent_id) as viewer:
            await agent.until(lambda: bool(agent.requests))
            for n in range(300):
                await agent.stream_items(agent.requests[0], sample(n))
            await agent.sync_models()
            first = await anext(aiter(viewer))
            assert (first.n, first.missed) == (44, 44)


async def test_hardware_is_live_by_events_with_numbers_as_ids(server: Running) -> None:
    async def watch(agent: AgentDouble, request: Request) -> Answer:
        await agent.stream_items(request, sample(1), sample(2))
        return SeriesFinal(interval_ms=500, stream=StreamEnd(next_seq=1))

    async with server.agent() as agent:
        agent.handlers["hardware_watch"] = watch
        answer = await server.http.get(f"/api/v1/agents/{agent.agent_id}/hardware/watch?interval_ms=500")
        assert msgspec.json.decode(agent.requests[0].params) == {"interval_ms": 500}
    blocks = answer.text.strip().split("\n\n")
    assert blocks[0].splitlines()[:2] == ["id: 1", "event: sample"]
    assert blocks[-1].splitlines()[0] == "event: end"


async def test_a_watch_that_is_refused_is_answered_with_a_status(server: Running) -> None:
    async def forbidden(*_: object) -> Answer:
        return NotPermitted("not here", policy_key="policy.commands")

    async with server.agent() as agent:
        agent.handlers["hardware_watch"] = forbidden
        answer = await server.http.get(f"/api/v1/agents/{agent.agent_id}/hardware/watch")
        assert answer.status_code == 403
    offline = await server.http.get(f"/api/v1/agents/{agent.agent_id}/hardware/watch")
    assert (offline.status_code, offline.json()["error"]["kind"]) == (409, "agent_offline")


async def test_the_end_of_the_session_ends_the_viewers_with_an_error(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["hardware_watch"] = never
        path = f"/api/v1/agents/{agent.agent_id}/hardware/watch"
        asked = asyncio.create_task(server.http.get(path))
        await agent.until(lambda: bool(agent.requests))
        await agent.stream_items(agent.requests[0], sample(1))
        await agent.sync_models()
        await agent.socket.close()
        answer: httpx.Response = await asked
    assert answer.status_code == 200
    assert "event: error" in answer.text
    assert "link_lost" in answer.text
