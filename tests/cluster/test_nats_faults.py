"""A NATS that says what nobody expects, refuses some of it, or is lost while this process hardly runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from structlog.testing import capture_logs

from obt_agent.errors import LinkLost
from obt_server.bus import BusUnavailable, Exchanges, ExchangeSettings, NoResponders, ReplySink, nats_client
from obt_server.bus import nats as nats_bus
from obt_server.bus.nats import PONG_LOOK_S, NatsBus, NatsSettings
from obt_server.bus.nats_client import NatsClient, NatsSubscription
from obt_server.bus.nats_credentials import NatsCredentials
from obt_server.hub.budget import WaitingBudget
from tests.cluster.nats import NatsServer, connected
from tests.waiting import until


@contextlib.asynccontextmanager
async def saying(info: bytes, dials: list[int], then: bytes = b"") -> AsyncIterator[int]:
    """A server that says this first, answers pings, and says the other behind the third answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dials.append(len(dials))
        with contextlib.suppress(ConnectionError):
            writer.write(info + b"\r\n")
            pings = 0
            while data := await reader.readline():
                if data.startswith(b"PING"):
                    pings += 1
                    writer.write(b"PONG\r\n" + then * (pings == 3))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    "info", [b"INFO null", b"INFO 5", b'INFO {"nonce": 5, "connect_urls": 3}', b"INFO {", b"SMTP ready", b""]
)
async def test_whatever_a_server_says_of_itself_it_is_dialled_again(info: bytes) -> None:
    dials: list[int] = []
    async with saying(info, dials) as port, connected(NatsSettings((f"nats://127.0.0.1:{port}",))) as bus:
        assert not bus.connected
        await until(lambda: len(dials) > 2)


@pytest.mark.parametrize("said", [b"INFO {]\r\n", b"MSG obt.\xff 1 1\r\nx\r\n"])
async def test_a_connection_of_which_nothing_is_read_any_more_is_lost(said: bytes) -> None:
    dials: list[int] = []
    info = b'INFO {"max_payload": 1048576}'
    async with (
        saying(info, dials, then=said) as port,
        connected(NatsSettings((f"nats://127.0.0.1:{port}",))) as bus,
    ):
        await bus.subscribe("obt.>", lambda _: None)
        await until(lambda: len(dials) > 2)


@pytest.mark.parametrize("error", [None, NatsError("no")])
async def test_a_bus_ends_although_its_client_goes_on_in_place_of_being_cancelled(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting = asyncio.Event()

    async def connect(_: NatsClient, **__: object) -> None:
        # As asyncio.wait_for does on Python 3.11, where the answer comes in the same turn of the loop.
        connecting.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if error is not None:
            raise error

    async def flush(_: NatsClient, *__: object) -> None:
        """Answer at once."""

    monkeypatch.setattr(NatsClient, "connect", connect)
    monkeypatch.setattr(NatsClient, "flush", flush)
    monkeypatch.setattr(NatsClient, "max_payload", 1 << 20)
    monkeypatch.setattr(NatsClient, "is_connected", property(lambda _: not error))
    bus = NatsBus(NatsSettings(("nats://127.0.0.1:1",)))
    starting = asyncio.create_task(bus.start())
    await connecting.wait()
    starting.cancel()
    async with asyncio.timeout(10):
        await bus.close()
    assert not bus.connected


async def test_a_nats_that_hangs_is_found_by_a_process_that_is_late_at_each_look() -> None:
    async def hardly_run() -> None:
        while True:
            time.sleep(PONG_LOOK_S * 0.8)
            await asyncio.sleep(0.001)

    with NatsServer() as nats:
        async with connected(NatsSettings((nats.address,))) as bus:
            busy = asyncio.create_task(hardly_run())
            try:
                nats.hang()
                await until(lambda: not bus.connected)
            finally:
                nats.go_on()
                busy.cancel()
                await asyncio.gather(busy, return_exceptions=True)
            await until(lambda: bus.connected)


async def test_a_request_is_refused_where_nats_is_late_with_the_end_of_its_subscription(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_client, "DRAINED_WITHIN_S", 0.02)
    monkeypatch.setattr(nats_bus, "PONG_WITHIN_S", 60.0)
    done: list[bytes] = []

    async def work(body: bytes, reply: ReplySink) -> bytes:
        del reply
        done.append(body)
        return body

    settings = ExchangeSettings(prefix="obt.test", silence_s=60.0)
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for name in ("one", "two"):
            bus = await stack.enter_async_context(connected(NatsSettings((nats.address,))))
            sides.append(Exchanges(bus, name, WaitingBudget(1 << 20), settings))
            await sides[-1].start()
            stack.push_async_callback(sides[-1].close)
        caller, server = sides
        for number in range(20):
            served = await server.serve("obt.test.replica.two", work)
            nats.hang()
            try:
                asked = asyncio.create_task(caller.call("obt.test.replica.two", b"%d" % number, timeout_s=60))
                # It is on its way, and the end of the subscription behind it, on another connection.
                await asyncio.sleep(0)
                await served.close()
            finally:
                nats.go_on()
            with pytest.raises(NoResponders):
                await asked
    assert not done


async def test_what_an_account_may_not_do_is_in_the_log() -> None:
    settings = """authorization { users = [ {
        user: ann, password: right, permissions: { publish: "obt.test.presence.>", subscribe: "obt.test.>" }
    } ] }"""
    with NatsServer(settings) as nats, capture_logs() as lines:
        account = NatsSettings(
            (nats.address,), credentials=lambda: NatsCredentials(user="ann", password="right")
        )
        async with connected(account) as bus:
            exchanges = Exchanges(bus, "one", WaitingBudget(1 << 20), ExchangeSettings(prefix="obt.test"))
            await exchanges.start()
            for _ in range(2):
                # The other one where the machine stands so long that the connection is given up.
                with pytest.raises((LinkLost, BusUnavailable)):
                    await exchanges.call("obt.test.replica.me", b"", timeout_s=60)
            await exchanges.close()
    refused = [line["error"] for line in lines if line["event"] == "bus.refused"]
    assert "permissions violation" in refused[0].lower()


async def test_what_is_refused_is_logged_once_in_a_while_and_of_a_connection_that_is_there(
    nats: NatsServer,
) -> None:
    wrong = NatsSettings((nats.address,), credentials=lambda: NatsCredentials(user="ann", password="wrong"))
    with capture_logs() as lines:
        async with connected(NatsSettings((nats.address,))) as bus:
            for _ in range(3):
                bus._refused(NatsError("permissions violation"))  # noqa: SLF001
        nats.settings = 'authorization { user: "ann", password: "right" }'
        nats.kill()
        nats.start()
        async with connected(wrong) as bus:
            assert not bus.connected
    events = [line["event"] for line in lines]
    assert (events.count("bus.refused"), events.count("bus.unreachable")) == (1, 1)


async def test_a_subscription_that_is_closed_while_it_is_made_does_not_stay_at_nats() -> None:
    class Subscribed:
        ended = False

        async def unsubscribe(self) -> None:
            self.ended = True

    subscribed, asked, goes_on = Subscribed(), asyncio.Event(), asyncio.Event()

    class Slow(NatsClient):
        async def subscribe(self, *_: object, **__: object) -> Subscribed:  # type: ignore[override] # its double
            asked.set()
            await goes_on.wait()
            return subscribed

    assert issubclass(Slow, Client)
    among: dict[NatsSubscription, None] = {}
    subscription = NatsSubscription(among, "obt.x", lambda _: None)
    among[subscription] = None
    attaching = asyncio.create_task(subscription.attach(Slow(must_be_tls=False, on_refused=lambda _: None)))
    await asked.wait()
    await subscription.close()
    goes_on.set()
    await attaching
    assert subscribed.ended


async def test_a_subscription_whose_making_is_cancelled_is_left_nowhere(nats: NatsServer) -> None:
    async with connected(NatsSettings((nats.address,))) as bus:
        client = bus._client  # noqa: SLF001
        assert client is not None
        nats.hang()
        try:
            making = asyncio.create_task(bus.subscribe("obt.x", lambda _: None))
            await until(lambda: client._subs)  # noqa: SLF001
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
        finally:
            nats.go_on()
        assert not bus._taking  # noqa: SLF001
        assert not client._subs  # noqa: SLF001
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "nats settle"]
