"""``python -m tests.hostile.server_attacks``: what strangers and enrolled agents can do to a server.

A process for each group of attacks, of low priority, as if it were another machine. Reads its target as JSON
from standard input, attacks until its time is over, and prints what it sent as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import itertools
import json
import os
import random
import resource
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException

from obt_agent.errors import AgentError
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.protocol.limits import CONNECT_PATH
from tests.hostile.frames import TARGETS, VALUES, corpus, frame
from tests.hostile.raw import HALF_REQUESTS, RAW, upgrade
from tests.hostile.raw import frame as raw_frame
from tests.server.agent_double import AgentDouble, dial

MIB: Final = 1 << 20
BURST: Final = 200
SESSION_S: Final = 10.0
IDLE_SOCKETS: Final = 1100
FRESH, IN_A_FRAME = 20_000, 2_000


@dataclass
class AttackTarget:
    """The server, and who attacks it.

    Args:
        url: where it listens.
        credentials: ids and secrets of hostile agents that are enrolled.
        victim: id and name of an honest one.
        seconds: for how long.
        seed: of what is random.
        group: which of ``ATTACKS`` this process runs.
    """

    url: str
    credentials: list[tuple[str, str]]
    victim: tuple[str, str]
    seconds: float
    seed: int = 0
    group: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    @contextlib.asynccontextmanager
    async def admitted(self, who: int, **hello: Any) -> AsyncIterator[AgentDouble]:
        """A session of a hostile agent."""
        agent_id, secret = self.credentials[who]
        async with dial(self.url, secret, agent_id, name=f"hostile-{who}") as agent:
            await agent.hello(**hello)
            yield agent

    @contextlib.asynccontextmanager
    async def upgraded(self, who: int) -> AsyncIterator[asyncio.StreamWriter]:
        """A raw socket after the upgrade, which nobody reads."""
        _, secret = self.credentials[who]
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(upgrade(CONNECT_PATH, "127.0.0.1", f"Authorization: Bearer {secret}"))
            await reader.readuntil(b"\r\n\r\n")
            assert isinstance(writer.transport, asyncio.Transport)
            yield writer
        finally:
            writer.transport.abort()


async def messages(on: AttackTarget) -> None:
    """Every field of every message; half of the sessions never read."""
    frames = corpus(on.seed)
    for number in itertools.count():
        async with on.admitted(0) as agent, asyncio.timeout(SESSION_S):
            if number % 2:
                agent.socket.transport.pause_reading()
            while agent.closed is None:
                one = next(frames)
                copies = BURST if len(one.text) < 1000 else 1
                for _ in range(copies):
                    await agent.send(one.text.encode())
                await asyncio.sleep(0)  # or nobody sees that the session ended
                on.counts[f"message: {one.kind}"] += copies
                agent.notes.clear()
                agent.requests.clear()


async def raw_frames(on: AttackTarget) -> None:
    """What no library sends, after a hello that admits."""
    agent_id, _ = on.credentials[1]
    identity = {"id": agent_id, "name": "hostile-1", "version": "1", "instance": "i"}
    params = {"protocol": {"min": 1, "max": 1}, "agent": identity, "store_id": "s", "capabilities": []}
    hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "agent.hello", "params": params}).encode()
    for name, make in itertools.cycle(RAW.items()):
        with contextlib.suppress(OSError, TimeoutError):
            async with on.upgraded(1) as writer, asyncio.timeout(SESSION_S):
                writer.write(raw_frame(hello))
                for piece in make(True):
                    writer.write(piece)
                    on.counts[f"raw: {name}"] += 1
                    await writer.drain()
                    await asyncio.sleep(0)  # a write to a socket that takes everything yields to nobody
                await asyncio.sleep(0.2)


async def hellos(on: AttackTarget) -> None:
    """Each field of the hello with each value, and the identity of somebody else."""
    fields = [
        n for n, (method, side, *_) in enumerate(TARGETS) if (method, side) == ("agent.hello", "params")
    ]
    for number in itertools.count():
        for target in fields:
            for value in VALUES:
                with contextlib.suppress(OSError):
                    async with on.upgraded(2) as writer:
                        writer.write(raw_frame(frame(target, value, number).text.encode()))
                        on.counts["hello"] += 1
                        await writer.drain()
        victim_id, victim_name = on.victim
        for stolen in ({"id": victim_id}, {"name": victim_name}):
            agent_id, secret = on.credentials[2]
            name = stolen.get("name", "hostile-2")
            on.counts["hello: of another agent"] += 1
            with contextlib.suppress(AgentError, OSError, WebSocketException, TimeoutError):
                async with dial(on.url, secret, agent_id, name=name) as agent:
                    await agent.hello(id=stolen.get("id", agent_id))


async def idle_sockets(on: AttackTarget) -> None:
    """More sockets than descriptors, of two other addresses, each silent after some of its words."""
    while True:
        held = []
        for number, words in zip(range(IDLE_SOCKETS), itertools.cycle(HALF_REQUESTS.values()), strict=False):
            with contextlib.suppress(OSError):
                source = (f"127.0.0.{2 + number % 2}", 0)
                _, writer = await asyncio.open_connection(*on.address, local_addr=source)
                writer.write(words)
                held.append(writer)
        on.counts["idle sockets"] += len(held)
        await asyncio.sleep(SESSION_S)
        for writer in held:
            writer.transport.abort()


async def slow_bodies(on: AttackTarget) -> None:
    """Bodies that come byte by byte, and heads without an end."""

    async def one(head: bytes, word: bytes) -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(*on.address)
            writer.write(head)
            for _ in range(int(SESSION_S * 10)):
                writer.write(word)
                on.counts["slow body"] += 1
                await writer.drain()
                await asyncio.sleep(0.1)
            writer.transport.abort()

    words = (b" ", b"X-Header: " + b"x" * 4000 + b"\r\n")
    while True:
        heads = (HALF_REQUESTS["half a body"], HALF_REQUESTS["half a head"])
        await asyncio.gather(*(one(*pair) for pair in zip(heads * 20, words * 20, strict=True)))


async def sign_ins(on: AttackTarget) -> None:
    """Wrong passwords, join tokens and credentials, as fast as they are answered."""
    body = json.dumps({"name": "admin", "password": "wrong"}).encode()
    for path in itertools.cycle(["/api/v1/session", "/api/v1/agents/enroll"]):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(*on.address, local_addr=("127.0.0.3", 0))
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            head += f"Authorization: Bearer guessed\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await reader.readuntil(b"\r\n\r\n")
            on.counts["sign-in"] += 1
            writer.close()


async def results_nobody_asked_for(on: AttackTarget) -> None:
    """Finals of fresh jobs, whole and in pieces."""
    for number in itertools.count():
        async with on.admitted(3) as agent:
            for step in range(1000):
                job, text = f"forged-{number}-{step}", json.dumps({"x": random.random(), "y": "z" * 20_000})
                final = {"job_id": job, "kind": "benchmark", "state": "completed", "bytes": len(text)}
                if step % 2:
                    for part in range(20):
                        data = {"job_id": job, "offset": part * 500_000, "data": "x" * 500_000}
                        await agent.ask("job.part", data)
                with contextlib.suppress(AgentError):
                    await agent.ask("job.finished", {**final, "sha256": "0" * 64, "result": text})
                on.counts["result nobody asked for"] += 1


async def gzip_bombs(on: AttackTarget) -> None:
    """A few kilobytes that unpack to gigabytes, and junk."""
    packer = zlib.compressobj(9, wbits=31)
    piece = b" " * MIB
    bomb = b"".join(packer.compress(piece) for _ in range(256)) + packer.flush()
    for number in itertools.count():
        async with on.admitted(4) as agent:
            for step in range(1000):
                job = f"bomb-{number}-{step}"
                junk = bomb if step % 2 else gzip.compress(os.urandom(300_000))[:-9]
                data = base64.b64encode(junk).decode()
                final = {"job_id": job, "kind": "benchmark", "state": "completed", "encoding": "gzip"}
                with contextlib.suppress(AgentError):
                    await agent.ask(
                        "job.part", {"job_id": job, "offset": 0, "data": data, "encoding": "gzip"}
                    )
                    await agent.ask("job.finished", {**final, "bytes": 256 * MIB, "sha256": "0" * 64})
                on.counts["gzip bomb"] += 1


async def send_list(
    agent: AgentDouble, revision: int, count: int, family: str = "f", at_once: int = IN_A_FRAME
) -> None:
    """One list of models that the server has not seen, in pages."""
    for start in range(0, count, at_once):
        models = [
            InstalledModel(
                name=f"m{revision}-{n}:latest", digest=f"{revision:032x}{n:032x}", family=family, size_bytes=1
            )
            for n in range(start, min(start + at_once, count))
        ]
        page = {"index": start // at_once, "last": start + at_once >= count}
        ollama = {"reachable": True, "version": "0.5.0"}
        await agent.ask(
            "models.sync",
            {"revision": revision, "ollama": ollama, "list_digest": "d", "models": models, "page": page},
        )


async def fresh_models(on: AttackTarget) -> None:
    """Lists of models without end, none of which was there before."""
    async with on.admitted(5) as agent:
        for revision in itertools.count(int(time.time())):
            with contextlib.suppress(AgentError):
                await send_list(agent, revision, FRESH, family="f" * (revision % 500))
            on.counts["list of fresh models"] += 1


async def floods(on: AttackTarget) -> None:
    """Small frames as fast as they go: nobody asked, nobody waits, no such request."""
    beat = {"ollama": {"reachable": True}, "t_mono_us": 2**62, "loaded": ["x" * 100] * 100}
    progress = {"state": "running", "progress": {"phase": "x", "completed_bytes": 2**62}}
    for number in itertools.count():
        async with on.admitted(6) as agent, asyncio.timeout(SESSION_S):
            if number % 2:
                agent.socket.transport.pause_reading()
            for n in itertools.count():
                small: list[dict[str, Any]] = [
                    {"id": f"c{n}", "method": "cancel", "params": {"job_id": f"j{n}"}},
                    {"id": n, "result": {"x": "y" * 500}},
                    {"method": "stream.data", "params": {"id": n, "seq": n, "part": "x" * 500, "more": True}},
                    {"method": "heartbeat", "params": beat},
                    {"method": "job.progress", "params": {"job_id": f"p{n}", **progress}},
                ]
                one = small[number % len(small)]
                await agent.send(json.dumps({"jsonrpc": "2.0", **one}).encode())
                on.counts[f"flood: {one.get('method', 'answers')}"] += 1
                if n % 100 == 0:
                    await asyncio.sleep(0)  # as above
                agent.notes.clear()
                if agent.closed is not None:
                    break


ATTACKS: Final[tuple[tuple[Callable[[AttackTarget], Awaitable[None]], ...], ...]] = (
    (messages,),
    (floods,),
    (raw_frames, hellos),
    (idle_sockets, slow_bodies, sign_ins),
    (results_nobody_asked_for, gzip_bombs, fresh_models),
)
HOSTILE_AGENTS: Final = 7


async def attack(on: AttackTarget) -> None:
    """Run a group's attacks again and again until the time is over."""

    async def again(one: Callable[[AttackTarget], Awaitable[None]]) -> None:
        this = asyncio.current_task()
        assert this is not None
        while True:
            # The server ends sessions, refuses, answers with errors: each is its right.
            try:
                await one(on)
            except (AgentError, OSError, EOFError, TimeoutError, WebSocketException):
                pass
            except asyncio.CancelledError:
                # What waited for an answer when the session ended is cancelled, and this task is not.
                if this.cancelling():
                    raise
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(again(one), name=one.__name__) for one in ATTACKS[on.group]]
    done, pending = await asyncio.wait(tasks, timeout=on.seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


def main() -> int:
    """Attack what standard input names."""
    # On another machine it would take no processor time of the server's: it takes what is left of this one's.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    given = json.load(sys.stdin)
    on = AttackTarget(**given)
    asyncio.run(attack(on))
    sys.stdout.write(json.dumps(on.counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
