"""Generation by WebSocket, as OBT's own page uses it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import websockets

from obt_agent.errors import ModelNotFound
from obt_agent.protocol.envelope import Request
from tests.server.agent_double import AgentDouble, Answer
from tests.server.conftest import Running, running


@contextlib.asynccontextmanager
async def page(server: Running, client: str, model: str = "hf.co/x/y:1") -> AsyncIterator[Any]:
    url = f"{server.url.replace('http', 'ws')}/api/v1/models/generate/{model}?client_id={client}"
    headers = {"Authorization": server.http.headers["authorization"]}
    async with websockets.connect(url, additional_headers=headers, proxy=None) as socket:
        yield socket


async def receive(socket: Any) -> dict[str, Any]:
    async with asyncio.timeout(20):
        message: dict[str, Any] = json.loads(await socket.recv())
        return message


async def generate(agent: AgentDouble, request: Request) -> Answer:
    await agent.stream(
        request, b'{"response":"a","done":false}', b'{"response":"","thinking":"hm","done":false}'
    )
    return agent.final(request, b'{"response":"z","done":true,"eval_count":2}')


async def endless(agent: AgentDouble, request: Request) -> Answer:
    await agent.stream(request, b'{"response":"a","done":false}')
    return None


async def test_a_prompt_is_answered_in_chunks_and_a_second_one_after_it(server: Running) -> None:
    async with server.agent("pc") as agent:
        agent.handlers["generate"] = generate
        async with page(server, "pc") as socket:
            for prompt in ("one", "two"):
                await socket.send(json.dumps({"prompt": prompt, "options": {"seed": 1}}))
                assert await receive(socket) == {"response": "a", "done": False}
                assert await receive(socket) == {"response": "", "done": False, "thinking": "hm"}
                assert await receive(socket) == {"response": "z", "done": True, "eval_count": 2}
                sent = msgspec.json.decode(agent.requests[-1].params)
                assert sent == {"prompt": prompt, "options": {"seed": 1}, "model": "hf.co/x/y:1"}


async def test_stop_ends_the_answer_at_the_agent_and_the_next_prompt_works(server: Running) -> None:
    async with server.agent("pc") as agent:
        agent.handlers["generate"] = endless
        async with page(server, "pc") as socket:
            await socket.send('{"prompt": "p"}')
            await receive(socket)
            await socket.send('{"stop": true}')
            assert await receive(socket) == {"response": "", "done": True, "done_reason": "stop"}
            await agent.until(lambda: agent.requests[-1].method == "cancel")
            agent.handlers["generate"] = generate
            await socket.send('{"prompt": "again"}')
            assert (await receive(socket))["response"] == "a"


async def test_another_prompt_stops_the_one_before(server: Running) -> None:
    async with server.agent("pc") as agent:
        agent.handlers["generate"] = endless
        async with page(server, "pc") as socket:
            await socket.send('{"prompt": "p"}')
            await receive(socket)
            await socket.send('{"prompt": "q"}')
            assert (await receive(socket))["done_reason"] == "stop"
            assert (await receive(socket))["response"] == "a"


async def test_closing_the_page_cancels_the_answer(server: Running) -> None:
    async with server.agent("pc") as agent:
        agent.handlers["generate"] = endless
        async with page(server, "pc") as socket:
            await socket.send('{"prompt": "p"}')
            await receive(socket)
        await agent.until(lambda: agent.requests[-1].method == "cancel")


@pytest.mark.parametrize("asked", ["no json", "[]", "{}", '{"prompt": 1}', '{"stop": true}{'])
async def test_what_is_no_prompt_is_answered_with_an_error_and_the_socket_stays(
    server: Running, asked: str
) -> None:
    async with server.agent("pc") as agent:
        agent.handlers["generate"] = generate
        async with page(server, "pc") as socket:
            await socket.send(asked)
            answer = await receive(socket)
            assert (answer["error"]["kind"], answer["done"]) == ("invalid_params", True)
            await socket.send('{"prompt": "p"}')
            assert (await receive(socket))["response"] == "a"


async def test_the_agents_error_is_the_answer(server: Running) -> None:
    async def missing(*_: object) -> Answer:
        return ModelNotFound("no such model: pull it first")

    async with server.agent("pc") as agent:
        agent.handlers["generate"] = missing
        async with page(server, "pc") as socket:
            await socket.send('{"prompt": "p"}')
            answer = await receive(socket)
    assert answer["error"]["kind"] == "model_not_found"
    assert answer["error"]["message"] == "no such model: pull it first"


async def test_an_offline_agent_is_an_error_on_the_socket(server: Running) -> None:
    agent_id, _ = await server.enrol()
    async with page(server, agent_id) as socket:
        await socket.send('{"prompt": "p"}')
        assert (await receive(socket))["error"]["kind"] == "agent_offline"


async def test_unknown_clients_are_refused_before_the_upgrade(server: Running) -> None:
    for client, status in (("nobody", 404), ("", 404)):
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with page(server, client):
                pass
        assert caught.value.response.status_code == status


async def test_a_page_that_leaves_without_a_word_harms_nobody(server: Running) -> None:
    async with server.agent("pc"):
        async with page(server, "pc"):
            pass
        async with page(server, "pc") as socket:
            await socket.send("{")
            assert (await receive(socket))["done"] is True


async def test_a_binary_frame_is_answered_like_any_other_that_is_no_prompt(server: Running) -> None:
    async with server.agent("pc") as agent:
        agent.handlers["generate"] = generate
        async with page(server, "pc") as socket:
            await socket.send(b"\x00\xff")
            assert (await receive(socket))["error"]["kind"] == "invalid_params"
            await socket.send(json.dumps({"prompt": "p"}))
            assert await receive(socket) == {"response": "a", "done": False}


async def test_a_revoked_token_ends_the_answer_at_the_agent_and_closes_the_socket(tmp_path: Path) -> None:
    async with running(tmp_path, recheck_s=0.02) as server, server.agent("pc") as agent:
        agent.handlers["generate"] = endless
        tokens = (await server.http.get("/api/v1/api-tokens")).json()
        async with page(server, "pc") as socket:
            await socket.send(json.dumps({"prompt": "p"}))
            assert await receive(socket) == {"response": "a", "done": False}
            await server.parts.operators.store.revoke_token(tokens[0]["id"])
            last = await receive(socket)
            assert (last["error"]["kind"], last["done"]) == ("not_signed_in", True)
            with pytest.raises(websockets.ConnectionClosed):
                await receive(socket)
            assert socket.close_code == 1008
        await agent.until(lambda: agent.requests[-1].method == "cancel")
