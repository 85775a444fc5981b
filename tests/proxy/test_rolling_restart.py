"""Three replicas behind a proxy, restarted one after the other while agents are there and programs ask."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import pytest
import websockets

from obt_agent.backoff import with_jitter
from obt_agent.protocol.envelope import Request
from tests.cluster.postgresql import say
from tests.proxy.before_replicas import avoided, behind, by_caddy, by_haproxy
from tests.proxy.programs import Command, Proxy
from tests.proxy.replicas import Replicas
from tests.server.agent_double import AgentDouble, Answer, dial
from tests.waiting import until

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

NOTICE_S = 5.0
"""As the unit has it."""
PAUSE_S = 0.02
"""Between two requests of one program: fifty a second are enough to meet every moment of a restart."""
BROKEN = {"link_lost", "agent_offline", "draining"}
"""What a command may be answered while its agent goes from one replica to another."""


@dataclass
class Asked:
    """What a program asked for, and what it was answered."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    async def again_and_again(self, ask: Callable[[], Awaitable[httpx.Response]]) -> None:
        """Ask until cancelled."""
        while True:
            began = time.monotonic()
            try:
                answer = await ask()
            except httpx.HTTPError as error:
                self._failed(repr(error), began)
            else:
                if answer.is_success:
                    self.answers["success"] += 1
                else:
                    self._failed(_kind(answer), began)
            await asyncio.sleep(PAUSE_S)

    def _failed(self, why: str, began: float) -> None:
        self.answers[why] += 1
        self.failures.append(f"{why} after {time.monotonic() - began:.2f} s")


def _kind(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["kind"])
    except (ValueError, KeyError):
        return f"HTTP {answer.status_code}: {answer.text[:100]}"


async def no_models(_: AgentDouble, __: Request) -> Answer:
    return {"models": []}


async def stays(proxy: Proxy, agent_id: str, secret: str, sessions: list[int]) -> None:
    """An agent that dials again when its link has ended, no earlier than it was told."""
    while True:
        wait_s = 1.0
        with contextlib.suppress(OSError, websockets.WebSocketException, TimeoutError):
            async with dial(proxy.url, secret, agent_id, tls=proxy.tls) as double:
                double.handlers["running_models"] = no_models
                sessions.append((await double.hello()).session)
                await double.socket.wait_closed()
                told = [note for note in double.notes if note.method == "server.drain"]
                wait_s = msgspec.json.decode(told[-1].params)["retry_after_s"] if told else wait_s
        await asyncio.sleep(with_jitter(wait_s, random.random))


async def restart_each(replicas: Replicas, client: httpx.AsyncClient) -> None:
    """As docs/how-to/several-servers.md says: one after the other, and the proxy notices each."""
    for number, replica in enumerate(replicas.all):
        await replica.restart(NOTICE_S)

        async def taken(number: int = number) -> bool:
            return not await avoided(client, replicas, number)

        await until(taken)


@pytest.mark.parametrize("command", [by_haproxy, by_caddy])
async def test_no_request_fails_but_those_to_an_agent_that_is_on_its_way(
    tmp_path: Path, replicas: Replicas, command: Command
) -> None:
    for replica in replicas.all:
        # From here on with the notice of the unit, and not one that only a second signal ends.
        replica.end()
        replica.start(NOTICE_S)
    await replicas.start()
    agents = await replicas.new_agents(3)
    sessions: dict[str, list[int]] = {agent_id: [] for agent_id, _ in agents}
    reads, writes, calls = Asked(), Asked(), Asked()
    async with behind(tmp_path, command, replicas) as proxy, contextlib.AsyncExitStack() as stack:

        async def client() -> httpx.AsyncClient:
            return await stack.enter_async_context(proxy.client(replicas.token))

        reading, writing, calling, looking = [await client() for _ in range(4)]

        async def online() -> bool:
            answer = await looking.get("api/v1/agents")
            assert answer.status_code == 200, answer.text
            states = {one["id"]: one["presence"] for one in answer.json()}
            # A replica hears of those that were enrolled elsewhere within two seconds.
            return all(states.get(agent_id) == "online" for agent_id, _ in agents)

        async def call() -> httpx.Response:
            return await calling.post(f"api/v1/agents/{agents[0][0]}/commands/running_models")

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(stays(proxy, agent_id, secret, sessions[agent_id]))
                for agent_id, secret in agents
            ]
            await until(online)
            tasks += [
                group.create_task(reads.again_and_again(lambda: reading.get("api/v1/agents"))),
                group.create_task(
                    writes.again_and_again(lambda: writing.post("api/v1/join-tokens", json={}))
                ),
                group.create_task(calls.again_and_again(call)),
            ]
            await restart_each(replicas, looking)
            await until(online)
            for task in tasks:
                task.cancel()
    say(f"reads {dict(reads.answers)}, writes {dict(writes.answers)}, calls {dict(calls.answers)}")
    assert reads.failures == []
    assert writes.failures == []
    assert set(calls.answers) - BROKEN == {"success"}, calls.failures
    # Each agent was at a replica that was restarted, and is there again.
    assert all(len(numbers) > 1 and numbers == sorted(numbers) for numbers in sessions.values()), sessions
