"""From a configuration to an open WebSocket, in steps that each say why they failed.

address ─► proxy or TCP ─► TLS ─► upgrade ─► Wire
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohappyeyeballs import AddrInfoType, start_connection

from obt_agent.config.schema import ServerConfig
from obt_agent.errors import ConfigError
from obt_agent.identity.secret import Secret
from obt_agent.link import proxy, tls
from obt_agent.link.address import Address
from obt_agent.link.disconnect import NextDial, dial_failed
from obt_agent.link.timings import LinkTimings
from obt_agent.link.wire import Wire

_NEXT_ADDRESS_S: Final = 0.25
"""RFC 8305, section 8: the recommended Connection Attempt Delay."""

_UNSENT_BYTES: Final = 16 << 10
"""What may wait in the kernel unsent: little, so that control overtakes data; enough for a fast link."""


async def dial(
    address: Address, server: ServerConfig, timings: LinkTimings, secret: Secret, pins: Sequence[str] = ()
) -> Wire:
    """Dial once.

    Args:
        address: the server's.
        server: proxy and TLS.
        timings: a deadline for each step.
        secret: the credential; goes into the ``Authorization`` header and nowhere else.
        pins: the server's keys that the credential may be shown to; empty for any that is trusted.

    Raises:
        DialFailed: no open WebSocket came of it.
    """
    channel = await open_channel(address, server, timings, pins)
    try:
        wire = channel.wire(address, timings)
        await wire.upgrade(secret, deadline_s=timings.upgrade_s)
    except BaseException:
        channel.abort()
        raise
    return wire


@dataclass(frozen=True, slots=True)
class Channel:
    """A byte stream to the server: the transport to speak on, and the TCP transport below its TLS if any."""

    transport: asyncio.Transport
    below_tls: asyncio.Transport | None = None

    def wire(self, address: Address, timings: LinkTimings) -> Wire:
        """Put a WebSocket on it, before its upgrade."""
        wire = Wire(address.socket_url, close_s=timings.close_s, below_tls=self.below_tls)
        self.transport.set_protocol(wire)
        wire.connection_made(self.transport)
        return wire

    def abort(self) -> None:
        """Break it."""
        (self.below_tls or self.transport).abort()


async def open_channel(
    address: Address, server: ServerConfig, timings: LinkTimings, pins: Sequence[str] = ()
) -> Channel:
    """Connect to the server, through a proxy and TLS as set and checked.

    Raises:
        DialFailed: it could not be made.
    """
    pins = tls.pins_in_force(server, pins)
    # A server that names its key has TLS: clear text would send what is secret without the check.
    if pins and not address.secure:
        message = f"{address.authority} is to show a pinned key, which takes TLS: write https:// there."
        raise dial_failed("tls_pin_without_tls", message, NextDial.MAX_BACKOFF)
    sock = await _open_socket(address, server, timings)
    loop = asyncio.get_running_loop()
    try:
        # A protocol that does nothing: the WebSocket or the POST is put in its place once TLS stands.
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
    except BaseException:
        # Cancellation among them: ``drain`` ends a dial wherever it is.
        sock.close()
        raise
    if not address.secure:
        return Channel(transport)
    # Only one frame at most shall wait above the kernel: control overtakes the rest.
    transport.set_write_buffer_limits(high=1, low=0)
    try:
        return Channel(await _start_tls(transport, address, server, timings, pins), transport)
    except BaseException:
        transport.abort()
        raise


async def _open_socket(address: Address, server: ServerConfig, timings: LinkTimings) -> socket.socket:
    chosen = proxy.choose(server.proxy, address)
    if chosen is None:
        return await connect(address.host, address.port, timings)
    sock = await proxy.connect_through(chosen, address.host, address.port, timings.proxy_s)
    _set_up(sock)
    return sock


async def connect(host: str, port: int, timings: LinkTimings) -> socket.socket:
    """Return a connected socket, non-blocking and set up for many small frames.

    Raises:
        DialFailed: the name has no address, or none of its addresses answers.
    """
    addresses = await resolve(host, port, timings.resolve_s)
    try:
        async with asyncio.timeout(timings.connect_s):
            sock = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1)
    except TimeoutError as error:
        message = f"{host}:{port} does not answer (nothing within {timings.connect_s:g} s)."
        raise dial_failed("connect_timeout", message) from error
    except OSError as error:
        raise dial_failed("connect_failed", f"{host}:{port} cannot be reached: {_why(error)}.") from error
    _set_up(sock)
    return sock


def _set_up(sock: socket.socket) -> None:
    """Send small frames at once, and keep little unsent data in the kernel."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    unsent_option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if unsent_option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, unsent_option, _UNSENT_BYTES)


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


async def resolve(host: str, port: int, deadline_s: float) -> list[AddrInfoType]:
    """Return the addresses of a host.

    Raises:
        DialFailed: there is none, or no answer in time.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[AddrInfoType]] = loop.create_future()

    def deliver(found: Any, error: OSError | None) -> None:
        # The deadline has passed, and nobody waits any more.
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(found)

    def ask() -> None:
        found: Any = None
        failed: OSError | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            failed = error
        except UnicodeError:  # an empty or overlong label, which no name server is asked for
            failed = OSError("it is no host name")
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, found, failed)

    # A daemon thread of its own: the loop's executor would hold up the process's end for as long as a dead
    # name server lets the resolver wait.
    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    try:
        async with asyncio.timeout(deadline_s):
            return await answer
    except TimeoutError as error:
        raise dial_failed("resolve_timeout", f"No name server says where {host} is.") from error
    except OSError as error:
        raise dial_failed("resolve_failed", f"{host} has no address: {_why(error)}.") from error


async def _start_tls(
    transport: asyncio.Transport,
    address: Address,
    server: ServerConfig,
    timings: LinkTimings,
    pins: Sequence[str],
) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    try:
        # A thread, for it reads the trust store; at every dial, so that renewed files are used.
        context = await asyncio.to_thread(tls.client_context, server, pins)
    except ConfigError as error:
        raise dial_failed("tls_files", error.message, NextDial.MAX_BACKOFF) from error
    try:
        async with asyncio.timeout(timings.tls_s):
            secured = await loop.start_tls(
                transport, asyncio.Protocol(), context, server_hostname=address.host
            )
    except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
        kind, message = tls.explain(error, address.host)
        raise dial_failed(kind, message) from error
    if secured is None:
        raise dial_failed("tls_cut", f"{address.host} ended the connection during the TLS handshake.")
    if pins and not tls.shows_pinned_key(secured.get_extra_info("ssl_object"), pins):
        raise dial_failed("tls_wrong_key", tls.WRONG_KEY.format(address.host), NextDial.MAX_BACKOFF)
    return secured
