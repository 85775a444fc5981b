"""From settings to an open WebSocket, in stages that each say why they failed.

address ─► proxy or TCP ─► TLS ─► upgrade ─► Wire
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from obt_agent.errors import ConfigError
from obt_agent.identity.secret import Secret
from obt_agent.link import proxy, tcp, tls
from obt_agent.link.address import Address
from obt_agent.link.disconnect import NextDial, dial_failed
from obt_agent.link.settings import LinkSettings
from obt_agent.link.upgrade import upgrade
from obt_agent.link.wire import Wire


async def dial(address: Address, settings: LinkSettings, secret: Secret) -> Wire:
    """Dial once.

    Args:
        address: the server.
        settings: how to dial.
        secret: the credential; goes into the ``Authorization`` header and nowhere else.

    Raises:
        DialFailed: no open WebSocket came of it.
    """
    timings = settings.timings
    channel = await open_channel(address, settings)
    wire = Wire(address.socket_url, max_frame_bytes=settings.max_frame_bytes, close_s=timings.close_s)
    wire.below_tls = channel.below_tls
    channel.transport.set_protocol(wire)
    wire.connection_made(channel.transport)
    try:
        await upgrade(wire, secret, user_agent=settings.user_agent, deadline_s=timings.upgrade_s)
    except BaseException:
        channel.abort()
        raise
    return wire


@dataclass(frozen=True, slots=True)
class Channel:
    """A byte stream to the server: the transport to speak on, and the TCP transport below its TLS if any."""

    transport: asyncio.Transport
    below_tls: asyncio.Transport | None = None

    def abort(self) -> None:
        """Break it."""
        (self.below_tls or self.transport).abort()


async def open_channel(address: Address, settings: LinkSettings) -> Channel:
    """A connection to the server, through a proxy and TLS as set.

    Raises:
        DialFailed: it could not be made.
    """
    sock = await open_socket(address, settings)
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    if not address.secure:
        return Channel(transport)
    # Only one frame at most shall wait above the kernel: control overtakes the rest.
    transport.set_write_buffer_limits(high=1, low=0)
    try:
        return Channel(await _start_tls(transport, address, settings), transport)
    except BaseException:
        transport.abort()
        raise


async def open_socket(address: Address, settings: LinkSettings) -> socket.socket:
    """A connected socket, through a proxy if one is set."""
    chosen = proxy.choose(settings.proxy, address)
    if chosen is None:
        return await tcp.connect(address.host, address.port, settings.timings)
    sock = await proxy.connect_through(chosen, address.host, address.port, settings.timings.proxy_s)
    tcp.set_up(sock)
    return sock


async def _start_tls(
    transport: asyncio.Transport, address: Address, settings: LinkSettings
) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    try:
        # A thread, for it reads the trust store; at every dial, so that renewed files are used.
        context = await asyncio.to_thread(tls.client_context, settings.tls)
    except ConfigError as error:
        raise dial_failed("tls_files", error.message, NextDial.MAX_BACKOFF) from error
    try:
        async with asyncio.timeout(settings.timings.tls_s):
            secured = await loop.start_tls(
                transport, asyncio.Protocol(), context, server_hostname=address.host
            )
    except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
        kind, message = tls.explain(error, address.host)
        raise dial_failed(kind, message) from error
    if secured is None:
        raise dial_failed("tls_cut", f"{address.host} ended the connection during the TLS handshake.")
    return secured
