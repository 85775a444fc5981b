"""From a host name to a connected socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any, Final

from aiohappyeyeballs import AddrInfoType, start_connection

from obt_agent.link.disconnect import dial_failed
from obt_agent.link.settings import LinkTimings

_NEXT_ADDRESS_S: Final = 0.25
"""RFC 8305, section 8: the recommended Connection Attempt Delay."""

_UNSENT_BYTES: Final = 16 << 10
"""What may wait in the kernel unsent: little, so that control overtakes data; enough for a fast link."""


async def connect(host: str, port: int, timings: LinkTimings) -> socket.socket:
    """A connected socket, non-blocking and set up for many small frames.

    Raises:
        DialFailed: the name has no address, or none of its addresses answers.
    """
    addresses = await resolve(host, port, timings.resolve_s)
    try:
        async with asyncio.timeout(timings.connect_s):
            sock = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1)
    except TimeoutError as error:
        raise dial_failed(
            "connect_timeout", f"{host}:{port} does not answer (nothing within {timings.connect_s:g} s)."
        ) from error
    except OSError as error:
        raise dial_failed("connect_failed", f"{host}:{port} cannot be reached: {_why(error)}.") from error
    set_up(sock)
    return sock


def set_up(sock: socket.socket) -> None:
    """Send small frames at once, and keep little unsent data in the kernel."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    unsent_option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if unsent_option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, unsent_option, _UNSENT_BYTES)


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


async def resolve(host: str, port: int, deadline_s: float) -> list[AddrInfoType]:
    """Addresses of a host.

    In a daemon thread of its own: the loop's executor would hold up the process's end for as long as a dead
    name server lets the resolver wait.

    Raises:
        DialFailed: there is none, or no answer in time.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[AddrInfoType]] = loop.create_future()

    def look_up() -> None:
        try:
            found: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            _report(loop, answer, found, None)
        except OSError as error:
            _report(loop, answer, None, error)
        except UnicodeError:  # an empty or overlong label, which no name server is asked for
            _report(loop, answer, None, OSError("it is no host name"))

    threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    try:
        async with asyncio.timeout(deadline_s):
            return await answer
    except TimeoutError as error:
        raise dial_failed("resolve_timeout", f"No name server says where {host} is.") from error
    except OSError as error:
        raise dial_failed("resolve_failed", f"{host} has no address: {_why(error)}.") from error


def _report(
    loop: asyncio.AbstractEventLoop,
    answer: asyncio.Future[list[AddrInfoType]],
    found: list[AddrInfoType] | None,
    error: OSError | None,
) -> None:
    def deliver() -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(found or [])

    if not loop.is_closed():
        loop.call_soon_threadsafe(deliver)
