"""A connection to NATS (see ``Bus``), over nats-py: dialled again for ever, and given up within 2 s.

nats-py can dial again by itself, and is not let: it would keep what was published while it was away, and send
it when nobody waits for it any more. Here each connection is a client of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from nats.errors import Error as NatsError

from obt_agent.errors import ConfigError, TooLarge
from obt_server.bus.bus import Take
from obt_server.bus.local import MAX_PAYLOAD_BYTES
from obt_server.bus.nats_client import NatsClient, NatsSubscription
from obt_server.bus.nats_credentials import NatsCredentials, no_credentials
from obt_server.bus.requests import RequestInbox, lost

log = structlog.get_logger(__name__)

PING_EVERY_S: Final = 0.4
PONG_WITHIN_S: Final = 1.0
"""A server that answers no ping in this time is away. With the pause between pings that is less than 2 s."""
PONG_LOOK_S: Final = PONG_WITHIN_S / 4
"""The wait for an answer in parts, so that time counts little in which nothing ran."""
MOST_LATE_LOOKS: Final = 6
"""A process that is late at each of so many looks, and has no answer, has lost its NATS."""
CONNECT_S: Final = 2.0
FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0
"""Between two attempts; the actual pause is random, up to that: processes do not come back in one instant."""
LASTED_S: Final = 5.0
"""A connection that lasts so long was a good one: the next loss begins with short pauses again."""
PENDING_BYTES: Final = 4 << 20
"""Of ours that the connection has not taken yet; above it a sender waits. As much again is on its way at
most, and a ping goes behind both."""
ROOM_WITHIN_S: Final = 1.5
ROOM_EVERY_S: Final = 0.005
REPORT_EVERY_S: Final = 30.0
_LONG_S: Final = 3600
"""For pings: a ping that nats-py gives up breaks its connection when the answer comes after all."""


@dataclass(frozen=True)
class NatsSettings:
    """Where NATS is, and how to get in.

    Args:
        addresses: ``nats://HOST:PORT`` or ``tls://HOST:PORT``; one of them is used at a time.
        name: what NATS shows of this process.
        credentials: called for each connection; see ``nats_credentials``.
        ca_file: PEM file of the authorities that may have signed NATS's certificate; the system's when None.
    """

    addresses: tuple[str, ...]
    name: str = "obt-server"
    credentials: Callable[[], NatsCredentials] = no_credentials
    ca_file: str | None = None


class NatsBus:
    """The connection, from ``start`` to ``close``.

    Args:
        settings: where to.
    """

    def __init__(self, settings: NatsSettings) -> None:
        self._settings = settings
        # One that is not needed would take a megabyte.
        wanted = settings.ca_file is not None or any(one.startswith("tls:") for one in settings.addresses)
        self._tls = ssl.create_default_context(cafile=settings.ca_file) if wanted else None
        self._client: NatsClient | None = None
        self._taking: dict[NatsSubscription, None] = {}
        self._observers: list[Callable[[bool], None]] = []
        self._requests = RequestInbox(self)
        self._max_payload = MAX_PAYLOAD_BYTES
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        # clients that are being closed
        self._closing: set[asyncio.Task[None]] = set()
        self._first = asyncio.Event()
        self._reported_at = self._refused_at = float("-inf")

    # -- the connection ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect. Returns when that has succeeded or failed once: a bus may come later."""
        self._task = asyncio.create_task(self._run(), name="nats")
        await self._first.wait()

    async def close(self) -> None:
        """End the connection for good."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._client is not None

    @property
    def max_payload(self) -> int:
        """Most bytes of a message's data, as NATS said last."""
        return self._max_payload

    def on_connection(self, observer: Callable[[bool], None]) -> None:
        """Tell of losses and returns; see ``Bus.on_connection``."""
        self._observers.append(observer)

    async def _run(self) -> None:
        addresses = list(self._settings.addresses)
        random.shuffle(addresses)
        loop = asyncio.get_running_loop()
        failures = 0
        for address in itertools.cycle(addresses):
            try:
                credentials = self._settings.credentials()
                client = NatsClient(must_be_tls=address.startswith("tls:"), on_refused=self._refused)
                try:
                    await self._connect(client, address, credentials)
                    # On Python 3.11 nats-py may go on in place of being cancelled (CPython's issue 86296).
                    if self._closed:
                        return
                    began = loop.time()
                    await self._use(client, address)
                    # One that ends at once is no better than one that is refused.
                    if loop.time() - began > LASTED_S:
                        failures = 0
                finally:
                    self._discard(client)
            except (NatsError, OSError, TimeoutError, ValueError, ConfigError) as error:
                # ConfigError: the file of credentials is being written anew, say.
                self._report(address, error)
            # nats-py takes what a server says of itself as it comes: whatever that was, it is dialled again.
            except Exception:
                log.exception("bus.failed", address=address)
            if self._closed:
                return
            self._first.set()
            ceiling = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(failures, 10))
            await asyncio.sleep(random.uniform(0, ceiling))  # noqa: S311 - jitter, not a secret
            failures += 1

    async def _connect(self, client: NatsClient, address: str, credentials: NatsCredentials) -> None:
        # nats-py's own deadlines are for a part each.
        async with asyncio.timeout(CONNECT_S):
            await client.connect(
                servers=[address],
                name=self._settings.name,
                error_cb=client.on_error,
                closed_cb=client.on_closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                # Our own pings find a silent server, and sooner.
                ping_interval=60,
                # Never reached: what is above our own bound waits before it is published.
                pending_size=1 << 40,
                tls=self._tls,
                user=credentials.user,
                password=credentials.password,
                token=credentials.token,
                user_jwt_cb=credentials.jwt,
                signature_cb=credentials.sign,
            )
        # nats-py dials twice, and told of the first try that failed.
        client.lost.clear()
        self._max_payload = client.max_payload
        # Anew: on Python 3.11 a deadline that meets the answer is lost with nats-py's own.
        async with asyncio.timeout(CONNECT_S):
            for subscription in list(self._taking):
                await subscription.attach(client)
            # What was subscribed is known there when an answer has come.
            await client.flush(_LONG_S)

    async def _use(self, client: NatsClient, address: str) -> None:
        self._client = client
        log.info("bus.connected", address=address)
        self._first.set()
        try:
            self._tell(connected=True)
            # A subscription that came between the list above and now.
            for subscription in list(self._taking):
                await subscription.attach(client)
            await self._until_lost(client)
        finally:
            self._client = None
            self._tell(connected=False)
            self._requests.fail()
        log.warning("bus.lost", address=address, error=str(client.failure or "no answer to a ping"))

    async def _until_lost(self, client: NatsClient) -> None:
        """Return when the connection has ended, or brings nothing any more."""
        closed = asyncio.create_task(client.lost.wait(), name="nats closed")
        pong: asyncio.Task[None] | None = None
        try:
            while client.is_connected and not closed.done():
                pong = asyncio.create_task(client.flush(_LONG_S), name="nats ping")
                if not await self._comes(pong, closed):
                    return
                await asyncio.wait([closed], timeout=PING_EVERY_S)
        finally:
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)
            client.left_over += [] if pong is None else [pong]

    async def _comes(self, pong: asyncio.Task[None], closed: asyncio.Task[bool]) -> bool:
        loop = asyncio.get_running_loop()
        waited_s = 0.0
        late = 0
        while True:
            began = loop.time()
            done, _ = await asyncio.wait(
                [pong, closed], timeout=PONG_LOOK_S, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                return not closed.done() and pong.exception() is None
            took_s = loop.time() - began
            waited_s += min(took_s, PONG_LOOK_S)
            # After a look that was late itself, because this process or its machine stood, the answer may be
            # there unread, or on its way: look again. Not for ever, where each look is late.
            late += took_s >= PONG_LOOK_S * 1.5
            if waited_s >= PONG_WITHIN_S and (took_s < PONG_LOOK_S * 1.5 or late > MOST_LATE_LOOKS):
                return False

    def _discard(self, client: NatsClient) -> None:
        task = asyncio.create_task(client.end(), name="nats close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _tell(self, *, connected: bool) -> None:
        for observer in list(self._observers):
            try:
                observer(connected)
            except Exception:
                log.exception("bus.observer_failed")

    def _refused(self, error: Exception) -> None:
        # Why a connection could not be made is reported by who made it. Else NATS answers each message.
        now = asyncio.get_running_loop().time()
        if self.connected and now - self._refused_at >= REPORT_EVERY_S:
            self._refused_at = now
            log.error("bus.refused", error=str(error) or type(error).__name__)

    def _report(self, address: str, error: Exception) -> None:
        # Each process dials every 2 s at most, for as long as it takes.
        now = asyncio.get_running_loop().time()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            log.warning("bus.unreachable", address=address, error=str(error) or type(error).__name__)

    # -- messages ---------------------------------------------------------------------------------------

    async def publish(self, subject: str, data: bytes, reply: str | None = None) -> None:
        """Send a message; see ``Bus.publish``."""
        client = self._client
        if client is None:
            raise lost()
        if len(data) > self._max_payload:
            raise TooLarge(f"{len(data)} bytes are more than a message of this NATS holds.")
        # Asked for first: a full buffer would have nats-py wait, and forget that it was cancelled.
        if client.pending_data_size > PENDING_BYTES:
            await self._room(client)
        try:
            await client.publish(subject, data, reply=reply or "")
        except (NatsError, OSError) as error:
            raise lost() from error

    async def _room(self, client: NatsClient) -> None:
        try:
            async with asyncio.timeout(ROOM_WITHIN_S):
                while client.pending_data_size > PENDING_BYTES:
                    if self._client is not client:
                        raise lost()
                    await asyncio.sleep(ROOM_EVERY_S)
        except TimeoutError as error:
            raise lost() from error

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Send a message and return the first answer; see ``Bus.request``."""
        return await self._requests.request(subject, data, timeout_s)

    async def subscribe(self, subject: str, take: Take) -> NatsSubscription:
        """Have messages taken; see ``Bus.subscribe``. NATS knows of it when this returns, if it is there."""
        subscription = NatsSubscription(self._taking, subject, take)
        self._taking[subscription] = None
        client = self._client
        if client is not None:
            try:
                with contextlib.suppress(NatsError, OSError):
                    await subscription.attach(client)
                    await self._settled(client)
            except BaseException:
                # Nobody has it, to close it.
                await subscription.close()
                raise
        return subscription

    async def _settled(self, client: NatsClient) -> None:
        """Wait until NATS has done what was asked of it before, or is lost."""
        pong = asyncio.create_task(client.flush(_LONG_S), name="nats settle")
        try:
            await asyncio.wait([pong], timeout=PONG_WITHIN_S)
        finally:
            if pong.done():
                pong.exception()
            else:
                client.left_over.append(pong)
