"""Faults of the network: each is noticed within the deadline, and none is seen where there is none."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from obt_agent.errors import LinkLost
from obt_agent.link.liveness import LoopLag, Watchdog
from obt_agent.link.session import LinkSession
from obt_agent.link.timings import LinkTimings
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.envelope import Request
from tests.link.authority import Authority
from tests.link.doubles import PATIENCE_S, LinkRig, at_once, item, linked, meeting, shorter
from tests.link.fault_proxy import FaultProxy
from tests.link.server_double import Peer, ServerDouble
from tests.waiting import until

QUICK = shorter(alive_s=0.05, silence_s=0.4, tick_s=0.02)
CREDIT = {"stream_credit_bytes": 1 << 22, "link_credit_bytes": 1 << 22}


async def chatty(peer: Peer) -> None:
    """A server that is well: says so every 50 ms, and reads."""
    await peer.admit(**CREDIT)
    speaking = asyncio.create_task(_speak(peer))
    try:
        await peer.until_closed()
    finally:
        speaking.cancel()


async def _speak(peer: Peer) -> None:
    while True:
        await peer.notify("link.alive")
        await asyncio.sleep(0.05)


class Path:
    """A link through a fault proxy."""

    def __init__(self, rig: LinkRig, proxy: FaultProxy, server: ServerDouble) -> None:
        self.rig = rig
        self.proxy = proxy
        self.server = server


@asynccontextmanager
async def path(script: Any = chatty, *, timings: LinkTimings = QUICK, **more: Any) -> AsyncIterator[Path]:
    async with (
        ServerDouble(script) as server,
        FaultProxy(server.port) as proxy,
        linked(f"http://127.0.0.1:{proxy.port}", timings=timings, **more) as rig,
    ):
        yield Path(rig, proxy, server)


async def upload(session: LinkSession) -> None:
    """Send for as long as the session lives."""
    await session.request("nothing", Empty(), msgspec.Raw, timeout_s=PATIENCE_S)


async def flood(session: LinkSession, request: Request) -> None:
    sink = session.open_stream(request.id)
    number = 0
    while True:
        await sink.send([item(number, "x" * 1000)])
        number += 1


FAULTS = {
    "black hole": FaultProxy.black_hole,
    "stall both ways": FaultProxy.stall,
    "stall towards us": lambda proxy: proxy.down.stall(),
    "lose towards us": lambda proxy: proxy.down.lose(),
    "reset": FaultProxy.reset,
    "half close": FaultProxy.half_close,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_on_an_idle_link_is_noticed_and_the_link_is_made_again(fault: str) -> None:
    async with path() as met:
        first = await met.rig.session()
        FAULTS[fault](met.proxy)
        await until(lambda: not first.alive)
        met.proxy.resume()
        met.proxy.reset()
        await met.rig.session()


@pytest.mark.parametrize("fault", [*FAULTS, "stall towards the server"])
async def test_a_fault_in_mid_upload_is_noticed_and_nothing_hangs(fault: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit(**CREDIT)
        await peer.request("generate", id="g")
        speaking = asyncio.create_task(_speak(peer))
        try:
            while True:
                message = await peer.receive()
                if message.get("method") == "stream.data":
                    credit = {"bytes": message["bytes"]}
                    await peer.notify("stream.credit", {"id": "g", **credit})
                    await peer.notify("link.credit", credit)
        finally:
            speaking.cancel()

    async with path(script) as met:
        met.rig.handler.methods["generate"] = flood
        first = await met.rig.session()
        await until(lambda: met.proxy.up.passed > 200_000)
        if fault in FAULTS:
            FAULTS[fault](met.proxy)
        else:
            met.proxy.up.stall()
        await until(lambda: not first.alive)
        met.proxy.resume()
        met.proxy.reset()
        await met.rig.session()


async def test_a_cut_in_mid_frame_loses_the_session_and_not_the_agent() -> None:
    async with path() as met:
        first = await met.rig.session()
        met.proxy.up.cut_after = met.proxy.up.passed + 20
        await until(lambda: not first.alive)
        await met.rig.session()


async def test_a_server_that_does_not_speak_is_given_up_though_it_reads() -> None:
    async def silent(peer: Peer) -> None:
        await peer.admit()
        await peer.until_closed()

    async with path(silent) as met:
        first = await met.rig.session()
        await until(lambda: not first.alive)
        assert "silent" in str(met.rig.link.statistics.last_disconnect)


async def test_an_idle_agent_says_that_it_is_there() -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        speaking = asyncio.create_task(_speak(peer))
        for _ in range(3):
            await peer.expect("link.alive")
        heard.set()
        await peer.until_closed()
        speaking.cancel()

    heard = asyncio.Event()
    async with path(script) as met:
        await met.rig.session()
        await heard.wait()


async def test_a_slow_but_healthy_link_is_kept_through_large_messages_both_ways() -> None:
    """As 16 KiB/s each way with eight streams and a result of 1 MiB, all ten times as fast and as short."""
    seen: dict[str, Any] = {}

    async def script(peer: Peer) -> None:
        await peer.admit(stream_credit_bytes=32768, link_credit_bytes=131072)
        for number in range(8):
            await peer.request("generate", id=f"s{number}")
        await peer.request("big", id="big")
        speaking = asyncio.create_task(_speak_in_bulk(peer))
        try:
            while "big" not in seen:
                message = await peer.receive()
                if message.get("method") == "stream.data":
                    request_id = message["params"]["id"]
                    seen[request_id + " bytes"] = seen.get(request_id + " bytes", 0) + message["bytes"]
                    await peer.notify("stream.credit", {"id": request_id, "bytes": message["bytes"]})
                    await peer.notify("link.credit", {"bytes": message["bytes"]})
                elif message.get("id") == "big":
                    seen["big"] = message
        finally:
            speaking.cancel()

    async def _speak_in_bulk(peer: Peer) -> None:
        """Messages that take a second to arrive: only their bytes prove life."""
        for _ in range(2):
            await peer.notify("link.alive", {"padding": "x" * 160_000})
        await _speak(peer)

    async def big(session: LinkSession, request: Request) -> None:
        session.respond(request.id, msgspec.Raw(msgspec.json.encode("y" * (50 << 10))))

    timings = shorter(alive_s=0.5, silence_s=1.8, tick_s=0.02)
    async with ServerDouble(script) as server, FaultProxy(server.port) as proxy:
        proxy.up.bytes_per_second = proxy.down.bytes_per_second = 160 << 10
        async with linked(f"http://127.0.0.1:{proxy.port}", timings=timings) as rig:
            rig.handler.methods.update({"generate": flood, "big": big})
            session = await rig.session()
            await until(lambda: "big" in seen or not session.alive)
            assert session.alive
            assert seen["big"]["result"]["bytes"] == (50 << 10) + 2
            sizes = [seen[f"s{number} bytes"] for number in range(8)]
            assert min(sizes) * 4 >= max(sizes), sizes


async def test_control_passes_a_saturated_slow_link_soon() -> None:
    """A heartbeat waits for what is in the kernel and one frame, not for all that the streams would say."""

    async def script(peer: Peer) -> None:
        await peer.admit(**CREDIT)
        await peer.request("generate", id="g")
        speaking = asyncio.create_task(_speak(peer))
        between = 0
        try:
            while True:
                message = await peer.receive()
                if message.get("method") == "heartbeat":
                    waited.put_nowait(between)
                elif message.get("method") == "stream.data":
                    between += message["bytes"]
                    sizes.append(message["bytes"])
        finally:
            speaking.cancel()

    waited: asyncio.Queue[int] = asyncio.Queue()
    sizes: list[int] = []
    async with path(script, timings=shorter(alive_s=0.5, silence_s=5.0)) as met:
        met.proxy.up.bytes_per_second = 64 << 10
        met.rig.handler.methods["generate"] = flood
        session = await met.rig.session()
        await until(lambda: len(sizes) > 8)
        before = sum(sizes)
        session.notify("heartbeat", Empty())
        after = await waited.get()
        held = met.rig.link.session
        assert held is not None
        assert after - before < 3_000_000
        assert min(sizes[4:]) <= 32 << 10


async def test_a_late_event_loop_is_no_proof_of_death_and_is_reported() -> None:
    lag = LoopLag()
    lag.late(-1.0)
    assert lag.last_ms == 0.0
    lag.late(0.25)
    lag.late(0.1)
    assert (lag.last_ms, lag.worst_ms) == (100.0, 250.0)

    async with path() as met:
        session = await met.rig.session()
        blocker = asyncio.Event()
        asyncio.get_running_loop().call_soon(_block, 0.6, blocker)
        await blocker.wait()
        met.rig.handler.methods["ping"] = at_once
        await until(lambda: met.rig.link.lag.worst_ms >= 500)
        assert session.alive


async def test_the_watchdog_says_which_ticks_are_late() -> None:
    ticks: list[bool] = []
    async with meeting() as met:
        attempt = met.rig.link._attempt  # noqa: SLF001 - whose wire it is to watch
        assert attempt is not None
        timings = shorter(tick_s=0.02)
        watchdog = Watchdog(attempt.wire, timings, LoopLag(), lambda _, late: ticks.append(late))
        watching = asyncio.create_task(watchdog.run())
        await until(lambda: False in ticks)
        _block(0.2, asyncio.Event())
        await until(lambda: True in ticks)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _block(seconds: float, done: asyncio.Event) -> None:
    """What a slow driver or a starved machine does to the loop."""
    time.sleep(seconds)
    done.set()


async def test_a_probe_that_is_not_answered_ends_the_link_long_before_the_silence_would() -> None:
    async with path(timings=shorter(silence_s=60.0, probe_s=0.1)) as met:
        session = await met.rig.session()
        met.proxy.black_hole()
        while session.alive:  # what was past the proxy already may come after the first probe
            met.rig.link._route_changed()  # noqa: SLF001 - no test can change the machine's routes
            await asyncio.sleep(0.3)  # longer than a probe waits


async def test_a_probe_that_is_answered_changes_nothing() -> None:
    async with path(timings=shorter(silence_s=60.0, probe_s=0.1)) as met:
        session = await met.rig.session()
        received = met.rig.link.statistics.bytes_received
        met.rig.link._route_changed()  # noqa: SLF001 - no test can change the machine's routes
        await until(lambda: met.rig.link.statistics.bytes_received > received)
        await asyncio.sleep(0.3)  # longer than the probe waits: nothing may happen then
        assert session.alive


async def test_requests_under_way_fail_when_silence_ends_the_link() -> None:
    async with path() as met:
        session = await met.rig.session()
        asking = asyncio.create_task(upload(session))
        met.proxy.black_hole()
        with pytest.raises(LinkLost):
            await asking


async def test_through_tls_a_stalled_upload_is_noticed_too(tmp_path: Any) -> None:
    authority = Authority()
    tls = {"ca_file": str(authority.ca_file(tmp_path))}
    async with (
        ServerDouble(_ask_and_speak, tls=authority.server()) as server,
        FaultProxy(server.port) as proxy,
        linked(f"https://localhost:{proxy.port}", timings=QUICK, **tls) as rig,
    ):
        rig.handler.methods["generate"] = flood
        first = await rig.session()
        await until(lambda: proxy.up.passed > 100_000)
        proxy.up.stall()
        await until(lambda: not first.alive)
        proxy.resume()
        await rig.session()


async def _ask_and_speak(peer: Peer) -> None:
    await peer.admit(**CREDIT)
    await peer.request("generate", id="g")
    speaking = asyncio.create_task(_speak(peer))
    try:
        while True:
            message = json.loads(await peer.socket.recv())
            if message.get("method") == "stream.data":
                await peer.notify("stream.credit", {"id": "g", "bytes": 100_000})
                await peer.notify("link.credit", {"bytes": 100_000})
    finally:
        speaking.cancel()
