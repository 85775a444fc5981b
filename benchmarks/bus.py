"""A question and its answer between two processes: over bare NATS, over bare Redis, and as an exchange.

The first two are the least that each can do: text on sockets, written and read by an asyncio protocol,
publish and subscribe on both sides. Redis takes no other command on a connection that subscribes, so that
each side has two. It is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import shutil
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator

import uvloop

from benchmarks import processes
from benchmarks.table import Column, print_table
from obt_server.bus import Exchanges, ExchangeSettings, NoResponders, ReplySink
from obt_server.bus.nats import NatsBus, NatsSettings
from obt_server.hub.budget import WaitingBudget
from tests.cluster.nats import NatsServer
from tests.ports import free_port

ROUNDS = 3
READY_S = 60.0
BODY = b"x" * 300

COLUMNS = [
    Column("way"),
    Column("p50, least of the runs", 3),
    Column("most", 3),
    Column("p99, least of the runs", 3),
    Column("most", 3),
]

Ask = Callable[[], Awaitable[object]]


class _Socket(asyncio.Protocol):
    """Calls ``on`` with what comes."""

    def __init__(self, on: Callable[[bytes], None]) -> None:
        self.on = on

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.on(data)


async def _connected(port: int, greeting: bytes, on: Callable[[bytes], None]) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: _Socket(on), "127.0.0.1", port)
    transport.write(greeting)
    return transport


def _nothing(_: bytes) -> None:
    return


async def _raw(port: int, heard: str, told: str, *, redis: bool) -> tuple[Callable[[], None], asyncio.Event]:
    """Return what sends to one subject, and an event that is set when something comes on the other."""
    came = asyncio.Event()

    def on(data: bytes) -> None:
        # What is heard on the subject names it; the confirmation of Redis does not count.
        if (b"message" if redis else b"MSG") in data:
            came.set()

    if redis:
        await _connected(port, f"SUBSCRIBE {heard}\r\n".encode(), on)
        out = await _connected(port, b"", _nothing)
        message = f"PUBLISH {told} {BODY.decode()}\r\n".encode()
    else:
        out = await _connected(port, f'CONNECT {{"verbose":false}}\r\nSUB {heard} 1\r\n'.encode(), on)
        message = f"PUB {told} {len(BODY)}\r\n".encode() + BODY + b"\r\n"
    return lambda: out.write(message), came


async def _answer_raw(port: int, *, redis: bool) -> None:
    send, came = await _raw(port, "ask", "answer", redis=redis)
    while True:
        await came.wait()
        came.clear()
        send()


async def _ask_raw(port: int, *, redis: bool) -> Ask:
    send, came = await _raw(port, "answer", "ask", redis=redis)

    async def ask() -> None:
        came.clear()
        send()
        await came.wait()

    # Until the other side listens nothing comes back.
    async with asyncio.timeout(READY_S):
        while not came.is_set():
            send()
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    return ask


async def _exchanges(port: int) -> Exchanges:
    bus = NatsBus(NatsSettings((f"nats://127.0.0.1:{port}",)))
    await bus.start()
    exchanges = Exchanges(bus, "bench", WaitingBudget(64 << 20), ExchangeSettings(prefix="bench"))
    await exchanges.start()
    return exchanges


async def _answer_exchange(port: int) -> None:
    async def echo(body: bytes, reply: ReplySink) -> bytes:
        del reply
        return body

    await (await _exchanges(port)).serve("bench.ask", echo)
    await asyncio.Event().wait()


async def _ask_exchange(port: int) -> Ask:
    exchanges = await _exchanges(port)

    async def ask() -> bytes:
        return await exchanges.call("bench.ask", BODY, timeout_s=READY_S)

    async with asyncio.timeout(READY_S):
        while True:
            with contextlib.suppress(NoResponders):
                await ask()
                return ask
            await asyncio.sleep(0.05)


def _answer(name: str, port: int) -> None:
    uvloop.run(_answer_exchange(port) if name == "exchange" else _answer_raw(port, redis=name == "redis"))


async def _times(name: str, port: int, count: int) -> list[float]:
    """Milliseconds of each question."""
    ask = await (_ask_exchange(port) if name == "exchange" else _ask_raw(port, redis=name == "redis"))
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


@contextlib.contextmanager
def _running(name: str) -> Iterator[int]:
    """The server of a way; gives its port."""
    if name != "redis":
        with NatsServer() as nats:
            yield nats.port
        return
    port = free_port()
    words = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as redis:
        try:
            asyncio.run(processes.listening(port))
            yield port
        finally:
            redis.terminate()


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks bus", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    count = 300 if parser.parse_args(argv).quick else 3000
    names = {"NATS": "nats", "Redis": "redis", "an exchange over NATS": "exchange"}
    if shutil.which("redis-server") is None:
        del names["Redis"]
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    # In turns: whatever else the machine does meets them all.
    for _ in range(ROUNDS):
        for shown, name in names.items():
            with _running(name) as port:
                other = multiprocessing.get_context("spawn").Process(target=_answer, args=(name, port))
                other.start()
                try:
                    found[shown].append(uvloop.run(_times(name, port, count)))
                finally:
                    other.kill()
                    other.join()
    print_table(
        f"ms from a question of {len(BODY)} bytes to its answer, one by one: {ROUNDS} runs of {count}",
        COLUMNS,
        [
            (
                shown,
                *_ends([statistics.median(run) for run in runs]),
                *_ends([statistics.quantiles(run, n=100)[98] for run in runs]),
            )
            for shown, runs in found.items()
        ],
    )
    return 0


def _ends(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)
