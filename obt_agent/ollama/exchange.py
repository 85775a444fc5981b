"""One HTTP exchange with Ollama through aiohttp: what is sent, when it went out, and how it is given up."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace
from typing import Final

from obt_agent.ollama.http_library import aiohttp
from obt_agent.ollama.timestamps import StampedResponse, StampingConnector

_HEADERS: Final = {
    "Accept": "application/x-ndjson, application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "obt-agent",
}
# From here on a body is sent as a file, piece by piece.
_LARGE_BYTES: Final = 256 << 10
_HEADER_CHARS: Final = 200


class Sent(SimpleNamespace):
    """When the request's headers went out, filled in by the trace."""

    at_ns: int


def open_session(
    connector: StampingConnector, connect_limit_s: float, *traces: aiohttp.TraceConfig
) -> aiohttp.ClientSession:
    """Return a session that reaches Ollama directly and sends each request once."""
    session = aiohttp.ClientSession(
        connector=connector,
        response_class=StampedResponse,
        headers=_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            # ceil_threshold: aiohttp rounds longer deadlines up to whole seconds unless told not to.
            total=None,
            connect=connect_limit_s,
            sock_connect=connect_limit_s,
            ceil_threshold=float("inf"),
        ),
        # A compressed body would have no arrival times of its lines.
        auto_decompress=False,
        # Ollama is reached directly: a proxy for the web is not for this machine or its network.
        trust_env=False,
        trace_configs=list(traces),
    )
    # aiohttp would send a DELETE twice when the first one's connection breaks. Retries are tenacity's.
    session._retry_connection = False  # noqa: SLF001 - there is no public way
    return session


def sendable(body: bytes | None) -> bytes | io.BytesIO | None:
    """A body as aiohttp wants it: a large one (an image) as a file, which it sends piece by piece."""
    return io.BytesIO(body) if body is not None and len(body) > _LARGE_BYTES else body


def readable(header: str) -> str:
    """A header as text: aiohttp keeps bytes that are not UTF-8 as surrogates, which no frame can hold."""
    return header[:_HEADER_CHARS].encode("ascii", "replace").decode()


async def note_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    """Note the time in the ``Sent`` that goes with the request."""
    context.trace_request_ctx.at_ns = time.monotonic_ns()


def hang_up(response: aiohttp.ClientResponse) -> None:
    """Close the connection now, whatever waits in it."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        # close() would wait for buffers to drain, and Ollama go on generating meanwhile.
        connection.transport.abort()
    response.close()
