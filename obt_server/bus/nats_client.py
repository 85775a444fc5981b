"""What nats-py lacks: a client for one connection, and a subscription that outlives it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import structlog
from nats.aio.client import PING_PROTO, Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import SlowConsumerError, UnexpectedEOF

from obt_server.bus.bus import BusMessage, Take

log = structlog.get_logger(__name__)

DRAINED_WITHIN_S: Final = 1.0
CLOSE_S: Final = 1.0
RECEIVED_MESSAGES: Final = 65_536
RECEIVED_BYTES: Final = 64 << 20
"""Of a subscription, received and not taken yet; what is more is dropped, and missed by who counts."""


class NatsClient(Client):
    """nats-py's client for one connection, with what it lacks.

    Args:
        must_be_tls: whether a server without TLS is refused.
        on_refused: called with what the server refuses, while the connection is made and later.

    ``lost`` is set when the connection has ended, ``failure`` is what was wrong last. ``left_over`` holds
    tasks that wait for an answer which may never come; they are cancelled at the end.
    """

    def __init__(self, *, must_be_tls: bool, on_refused: Callable[[Exception], None]) -> None:
        super().__init__()
        self._must_be_tls = must_be_tls
        self._on_refused = on_refused
        self.lost = asyncio.Event()
        self.failure: Exception | None = None
        self.left_over: list[asyncio.Task[None]] = []

    async def on_error(self, error: Exception) -> None:
        """Take an error that nats-py tells of while the connection may go on."""
        if isinstance(error, SlowConsumerError):
            # Whoever counts messages notices; this is for who looks for the reason.
            log.warning("bus.dropped", subject=error.subject)
            return
        self.failure = error
        # nats-py does not always say that it closed a connection that broke.
        if isinstance(error, (OSError, UnexpectedEOF)):
            self.lost.set()
            return
        # A permission that this account lacks, say: all else goes on, and what was refused has no answer.
        self._on_refused(error)

    async def on_closed(self) -> None:
        """Take that the connection has ended."""
        self.lost.set()

    async def _process_info(
        self,
        info: dict[str, Any],
        initial_connection: bool = False,  # noqa: FBT001, FBT002 - as nats-py has it
    ) -> None:
        # nats-py would go on in the open, credentials included, with whoever says that there is no TLS.
        if self._must_be_tls and initial_connection and not info.get("tls_required"):
            raise NatsError("this NATS has no TLS: give its certificate to it, or use nats://")
        await super()._process_info(info, initial_connection)

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py writes a ping at once, past what it holds back for a turn of the loop: its answer would not
        # say that NATS has heard of a subscription, or of its end.
        if not self._pending:
            await super()._send_ping(future)
            return
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        await self._send_command(PING_PROTO)
        await self._flush_pending()

    async def _read_loop(self) -> None:
        # Where it fails, nats-py says that it is connected, and that each ping was answered.
        try:
            await super()._read_loop()
        finally:
            self.lost.set()

    async def end(self) -> None:
        """Close the connection, whether the other side reads or not."""
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.close()
        for task in self.left_over:
            task.cancel()
        await asyncio.gather(*self.left_over, return_exceptions=True)
        # nats-py waits for a server that does not read any more; the socket would stay open.
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


class NatsSubscription:
    """See ``BusSubscription``; it goes on at the next connection.

    Args:
        among: the subscriptions of a bus, this one included until it is closed.
        subject: what is taken.
        take: called with each message.
    """

    def __init__(self, among: dict[NatsSubscription, None], subject: str, take: Take) -> None:
        self._among = among
        self._subject = subject
        self._take = take
        self._client: NatsClient | None = None
        self._subscription: Subscription | None = None
        # set when nothing is taken any more; after ``among`` where NATS is late with what is on its way
        self._closed = False

    async def attach(self, client: NatsClient) -> None:
        """Subscribe on a new connection."""
        if self._client is client or self not in self._among:
            return
        self._client = client
        self._subscription = await client.subscribe(
            self._subject,
            cb=self._on_message,
            pending_msgs_limit=RECEIVED_MESSAGES,
            pending_bytes_limit=RECEIVED_BYTES,
        )
        # Closed meanwhile: NATS would go on to count this process among those who listen.
        if self not in self._among:
            await self._unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        if self._closed:
            return
        status = (message.headers or {}).get("Status")
        try:
            self._take(
                BusMessage(
                    message.subject, message.data, message.reply or None, no_responders=status == "503"
                )
            )
        except Exception:
            log.exception("bus.message_failed", subject=message.subject)

    async def drain(self) -> None:
        """Take what is on its way, then nothing more; see ``BusSubscription.drain``."""
        client, subscription = self._client, self._subscription
        if self not in self._among or client is None or subscription is None or not client.is_connected:
            await self.close()
            return
        del self._among[self]
        draining = asyncio.create_task(subscription.drain(), name="nats drain")  # type: ignore[no-untyped-call] # it has no types
        draining.add_done_callback(self._drained)
        try:
            await asyncio.wait([draining], timeout=DRAINED_WITHIN_S)
        finally:
            if client.is_closed:
                draining.cancel()
            elif not draining.done():
                client.left_over.append(draining)

    def _drained(self, draining: asyncio.Task[None]) -> None:
        self._closed = True
        if not draining.cancelled():
            # What it was is none of ours: the connection has ended.
            draining.exception()

    async def close(self) -> None:
        """Take nothing more."""
        self._closed = True
        if self._among.pop(self, self) is None:
            await self._unsubscribe()

    async def _unsubscribe(self) -> None:
        # Where the connection has ended there is nothing to take back.
        if self._subscription is not None:
            with contextlib.suppress(NatsError, OSError):
                await self._subscription.unsubscribe()
