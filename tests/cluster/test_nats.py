"""A real NATS: what it carries, how it is lost and found again, who is let in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from obt_agent.errors import AgentError, DeadlineExceeded, LinkLost, TooLarge
from obt_server.bus import BusMessage, BusUnavailable, Exchanges, ExchangeSettings, NoResponders, ReplySink
from obt_server.bus import nats as nats_bus
from obt_server.bus.nats import PONG_WITHIN_S, NatsBus, NatsSettings
from obt_server.bus.nats_credentials import NatsCredentials, from_file
from obt_server.hub.budget import WaitingBudget
from tests.cluster.nats import NatsServer, connected
from tests.cluster.postgresql import say
from tests.project.paths import ROOT
from tests.stopping import stop
from tests.waiting import until

SLACK_S = 20
"""For a machine at load 20; what is measured is whether there is an end at all."""
LONG_S = 60.0


@contextlib.asynccontextmanager
async def exchanging(bus: NatsBus) -> AsyncIterator[Exchanges]:
    exchanges = Exchanges(bus, "one", WaitingBudget(64 << 20), ExchangeSettings(prefix="obt.test"))
    await exchanges.start()
    try:
        yield exchanges
    finally:
        await exchanges.close()


async def until_nobody_listens(bus: NatsBus) -> None:
    """Ask until NATS has heard that the other one listens no more; what came there before is dropped."""
    async with asyncio.timeout(LONG_S):
        while True:
            with contextlib.suppress(DeadlineExceeded):
                await bus.request("obt.x.ask", b"abc", 1.0)


async def test_requests_are_answered_or_fail_as_they_should(nats: NatsServer) -> None:
    async with (
        connected(NatsSettings((nats.address,))) as one,
        connected(NatsSettings((nats.address,))) as two,
    ):

        def answer(message: BusMessage) -> None:
            assert message.reply is not None
            if message.data:
                answers.add(asyncio.ensure_future(two.publish(message.reply, message.data[::-1])))

        answers: set[asyncio.Future[None]] = set()
        subscription = await two.subscribe("obt.*.ask", answer)
        assert await one.request("obt.x.ask", b"abc", LONG_S) == b"cba"
        with pytest.raises(DeadlineExceeded):
            await one.request("obt.x.ask", b"", 0.01)
        await subscription.close()
        await subscription.close()
        with pytest.raises(NoResponders):
            await until_nobody_listens(one)
        with pytest.raises(TooLarge):
            await one.publish("obt.x.ask", bytes(one.max_payload + 1))
        await asyncio.gather(*answers)


@pytest.mark.parametrize("how", ["hang", "kill", "stop"])
async def test_a_nats_that_is_lost_fails_what_runs_in_time_and_is_used_again(
    nats: NatsServer, how: str
) -> None:
    async with (
        connected(NatsSettings((nats.address,))) as one,
        connected(NatsSettings((nats.address,))) as two,
        exchanging(one) as asking,
        exchanging(two) as serving,
    ):
        cancelled = asyncio.Event()

        async def work(body: bytes, reply: ReplySink) -> bytes:
            if body:
                return body
            try:
                await reply.send(b"first")
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            raise AssertionError

        changes: list[bool] = []
        one.on_connection(changes.append)
        await serving.serve("obt.test.work", work)
        async with asking.stream("obt.test.work", b"", silence_s=LONG_S) as stream:
            items = aiter(stream)
            assert await anext(items) == [b"first"]
            began = time.monotonic()
            await asyncio.to_thread(getattr(nats, how))
            with pytest.raises((BusUnavailable, LinkLost)):
                await asyncio.wait_for(asking.call("obt.test.work", b"new", timeout_s=LONG_S), SLACK_S)
            took = time.monotonic() - began
            with pytest.raises(LinkLost):
                await asyncio.wait_for(anext(items), SLACK_S)
            say(f"{how}: a new call failed after {took:.2f} s, a stream by {time.monotonic() - began:.2f} s")
        await asyncio.wait_for(cancelled.wait(), SLACK_S)
        began = time.monotonic()
        with pytest.raises(BusUnavailable):
            await asking.call("obt.test.work", b"away", timeout_s=LONG_S)
        with pytest.raises(BusUnavailable):
            await one.publish("obt.test.work", b"away")
        assert changes[0] is False
        if how == "hang":
            nats.go_on()
        else:
            await asyncio.to_thread(nats.start)
        await until(lambda: one.connected and two.connected)
        say(f"{how}: found again {time.monotonic() - began:.2f} s later")

        async def works() -> bool:
            with contextlib.suppress(AgentError):
                return await asking.call("obt.test.work", b"again", timeout_s=LONG_S) == b"again"
            return False

        await until(works)
        assert changes[-1] is True


async def publish_for_ever(bus: NatsBus, data: bytes, sent: list[int] | None = None) -> None:
    async with asyncio.timeout(SLACK_S):
        while True:
            await bus.publish("obt.events", data)
            if sent is not None:
                sent.append(len(data))
            await asyncio.sleep(0)


async def test_nothing_is_kept_for_a_nats_that_is_away(nats: NatsServer) -> None:
    async with (
        connected(NatsSettings((nats.address,))) as one,
        connected(NatsSettings((nats.address,))) as two,
    ):
        came: list[bytes] = []
        await two.subscribe("obt.events", lambda message: came.append(message.data))
        nats.hang()
        try:
            # The connection takes some while nobody knows.
            with pytest.raises(BusUnavailable):
                await publish_for_ever(one, b"early" * 1000)
            with pytest.raises(BusUnavailable):
                await one.publish("obt.events", b"late")
        finally:
            nats.go_on()
        await until(lambda: one.connected and two.connected)

        async def arrives() -> bool:
            with contextlib.suppress(BusUnavailable):
                await one.publish("obt.events", b"new")
            return b"new" in came

        await until(arrives)
        assert b"late" not in came


async def test_a_server_that_starts_before_its_nats_finds_it_later(nats: NatsServer) -> None:
    nats.kill()
    async with asyncio.timeout(SLACK_S), connected(NatsSettings((nats.address,))) as bus:
        assert not bus.connected
        came: list[bytes] = []
        await bus.subscribe("obt.events", lambda message: came.append(message.data))
        with pytest.raises(BusUnavailable):
            await bus.request("obt.events", b"", LONG_S)
        await asyncio.to_thread(nats.start)
        await until(lambda: bus.connected)
        await bus.publish("obt.events", b"new")
        await until(lambda: came == [b"new"])


async def test_of_several_addresses_one_that_answers_is_used(nats: NatsServer) -> None:
    with NatsServer() as other:
        settings = NatsSettings((nats.address, other.address))
        async with connected(settings) as bus:
            for away, back in ((nats, other), (other, nats)):
                await asyncio.to_thread(away.kill)
                await until(lambda: bus.connected)
                await asyncio.to_thread(away.start)
                assert back.port != away.port


async def test_a_sender_waits_for_a_connection_that_takes_nothing_and_then_gives_up(nats: NatsServer) -> None:
    async with connected(NatsSettings((nats.address,))) as bus:
        nats.hang()
        try:
            sent: list[int] = []
            with pytest.raises(BusUnavailable):
                await publish_for_ever(bus, bytes(1 << 20), sent)
            # What waits here, and what the kernel has taken of it.
            assert sum(sent) < 40 << 20
        finally:
            nats.go_on()


async def test_tls_is_checked(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = f"tls {{ cert_file: '{tmp_path}/cert.pem', key_file: '{tmp_path}/key.pem' }}"
    with NatsServer(tls) as nats:
        address = nats.address.replace("nats:", "tls:")
        async with connected(NatsSettings((address,), ca_file=str(tmp_path / "ca.pem"))) as bus:
            await until(lambda: bus.connected)
        async with connected(NatsSettings((address,))) as bus:
            assert not bus.connected


@contextlib.asynccontextmanager
async def plain_server(
    info: dict[str, object], on_ping: Callable[[int], None] = lambda _: None
) -> AsyncIterator[tuple[int, bytearray]]:
    """Something that says it is NATS, and keeps what it is told; ``on_ping`` hears of each ping."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(
                b"INFO " + json.dumps({"max_payload": 1 << 20, "headers": True, **info}).encode() + b"\r\n"
            )
            while data := await reader.read(4096):
                received.extend(data)
                if data.endswith(b"PING\r\n"):
                    on_ping(received.count(b"PING\r\n"))
                    writer.write(b"PONG\r\n" * data.count(b"PING\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], received


async def test_nats_answers_a_ping_when_it_has_heard_of_all_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nats_bus, "PING_EVERY_S", 600.0)
    async with plain_server({}) as (port, received):
        bus = NatsBus(NatsSettings((f"nats://127.0.0.1:{port}",)))
        subscription = await bus.subscribe("obt.x", lambda _: None)
        await bus.start()
        try:
            # Of the handshake, behind what is subscribed, and of the watch over the connection.
            await until(lambda: received.count(b"PING") == 3)
            await subscription.drain()
        finally:
            await bus.close()
    verbs = [line.split(b" ")[0] for line in bytes(received).splitlines()]
    assert verbs == [b"CONNECT", b"PING", b"SUB", b"PING", b"PING", b"UNSUB", b"PING"]


async def test_no_secret_goes_to_who_says_that_there_is_no_tls() -> None:
    secret = NatsCredentials(user="ann", password="secret")
    async with plain_server({"auth_required": True}) as (port, received):
        async with connected(NatsSettings((f"tls://127.0.0.1:{port}",), credentials=lambda: secret)) as bus:
            assert not bus.connected
        assert received == b""
        async with connected(NatsSettings((f"nats://127.0.0.1:{port}",), credentials=lambda: secret)) as bus:
            await until(lambda: bus.connected)
        assert b"secret" in received


async def test_a_machine_that_stood_still_for_a_second_has_not_lost_its_nats() -> None:
    def stand_still(pings: int) -> None:
        # The first two belong to the connecting. This server and the client are of one loop, which stands.
        if pings == 4:
            time.sleep(PONG_WITHIN_S + 0.1)

    told: list[bool] = []
    async with (
        plain_server({}, stand_still) as (port, received),
        connected(NatsSettings((f"nats://127.0.0.1:{port}",))) as bus,
    ):
        bus.on_connection(told.append)
        await until(lambda: received.count(b"PING\r\n") > 5)
        assert told == []
        assert received.count(b"CONNECT ") == 1


async def test_a_key_of_nats_signs_what_it_sent() -> None:
    key = Ed25519PrivateKey.generate()
    shown = NatsCredentials(
        jwt=lambda: b"head.body.sign", sign=lambda nonce: base64.b64encode(key.sign(nonce.encode()))
    )
    async with plain_server({"auth_required": True, "nonce": "n0nce"}) as (port, received):
        async with connected(NatsSettings((f"nats://127.0.0.1:{port}",), credentials=lambda: shown)) as bus:
            await until(lambda: bus.connected)
        said = json.loads(received.partition(b"CONNECT ")[2].partition(b"\r\n")[0])
    assert said["jwt"] == "head.body.sign"
    key.public_key().verify(base64.b64decode(said["sig"]), b"n0nce")


async def test_who_is_not_let_in_tries_again_with_what_its_file_holds_then(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("ann:wrong")
    file.chmod(0o600)
    with NatsServer('authorization { user: "ann", password: "right" }') as nats:
        async with connected(NatsSettings((nats.address,), credentials=lambda: from_file(file))) as bus:
            assert not bus.connected
            file.write_text("ann:right:")
            file.write_text("ann:right")
            await until(lambda: bus.connected)


async def test_a_process_that_was_stopped_cancels_its_work_and_begins_nothing_old(nats: NatsServer) -> None:
    words = [sys.executable, "-m", "tests.cluster.serving", nats.address, "obt.test"]
    child = await asyncio.to_thread(subprocess.Popen, words, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        # Its log comes before.
        while (line := await asyncio.to_thread(child.stdout.readline)) != b"ready\n":
            assert line
        async with connected(NatsSettings((nats.address,))) as bus, exchanging(bus) as asking:
            subject = "obt.test.replica.child"
            async with asking.stream(subject, b"work", silence_s=LONG_S) as stream:
                items = aiter(stream)
                await anext(items)
                await asyncio.to_thread(stop, child.pid)
                began = time.monotonic()
                late = asyncio.ensure_future(asking.call(subject, b"late", timeout_s=LONG_S))
                with pytest.raises(LinkLost):
                    await asyncio.wait_for(anext(items), 5 + SLACK_S)
                say(f"a stream of a stopped process ended after {time.monotonic() - began:.2f} s")
                # The bus itself may seem lost meanwhile, on a machine that is busy.
                with pytest.raises((LinkLost, BusUnavailable)):
                    await late
            # Where the bus was lost the calls ended sooner: what is old must be so for the child, too.
            await asyncio.sleep(max(0.0, began + ExchangeSettings().silence_s + 1 - time.monotonic()))
            child.send_signal(signal.SIGCONT)

            async def status() -> dict[str, int]:
                with contextlib.suppress(BusUnavailable, LinkLost, NoResponders):
                    counts: dict[str, int] = json.loads(
                        await asking.call(subject, b"status", timeout_s=LONG_S)
                    )
                    return counts
                return {}

            async def ended() -> bool:
                return (await status()).get("cancelled") == 1

            await until(ended)
            assert await status() == {"begun": 1, "cancelled": 1}
            # Killed, it is noticed by the bus.
            async with asking.stream(subject, b"work", silence_s=LONG_S) as stream:
                items = aiter(stream)
                await anext(items)
                child.kill()
                began = time.monotonic()
                with pytest.raises(LinkLost):
                    await asyncio.wait_for(anext(items), 5 + SLACK_S)
                say(f"a stream of a killed process ended after {time.monotonic() - began:.2f} s")
            assert await status() == {}
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
