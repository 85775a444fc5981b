"""One HTTP exchange over the link's own connector: same proxies, same TLS, no redirects, bounded answer.

Enough for enrolment, which is one POST; the standard library parses the answer.
"""

from __future__ import annotations

import asyncio
import http.client
import io
from dataclasses import dataclass
from typing import Any, Final, cast

from obt_agent.identity.secret import Secret
from obt_agent.link.address import Address
from obt_agent.link.bearer import bearer
from obt_agent.link.dial import open_channel
from obt_agent.link.disconnect import dial_failed
from obt_agent.link.settings import LinkSettings

MAX_ANSWER_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """Status, ``Retry-After`` if any, and the body."""

    status: int
    retry_after: str | None
    body: bytes


async def post_json(
    address: Address, path: str, body: bytes, settings: LinkSettings, *, secret: Secret
) -> HttpResponse:
    """POST a JSON body.

    Args:
        address: the server.
        path: the request's target.
        body: JSON.
        settings: proxy, TLS, deadlines.
        secret: goes into the ``Authorization`` header and nowhere else.

    Raises:
        DialFailed: there was no answer that is HTTP.
    """
    head = _head(address, path, len(body), settings.user_agent, bearer(secret))
    channel = await open_channel(address, settings)
    collector = _Collector()
    try:
        channel.transport.set_protocol(collector)
        channel.transport.write(head + body)
        async with asyncio.timeout(settings.timings.upgrade_s):
            data = await collector.whole
    except TimeoutError as error:
        raise dial_failed(
            "http_timeout", f"{address.authority} took the request and did not answer."
        ) from error
    finally:
        channel.abort()
    return _parse(data, address)


def _head(address: Address, path: str, body_bytes: int, user_agent: str, authorization: str) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {address.authority}",
        f"User-Agent: {user_agent}",
        f"Authorization: {authorization}",
        "Content-Type: application/json",
        f"Content-Length: {body_bytes}",
        "Accept: application/json",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("latin-1")


class _Collector(asyncio.Protocol):
    """Gathers everything until the other side closes."""

    def __init__(self) -> None:
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._data = bytearray()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_ANSWER_BYTES:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the answer may be whole anyway
        self._end()

    def _end(self) -> None:
        if not self.whole.done():
            self.whole.set_result(bytes(self._data))


class _Socket:
    """What ``http.client`` reads an answer from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _parse(data: bytes, address: Address) -> HttpResponse:
    response = http.client.HTTPResponse(cast("Any", _Socket(data)), method="POST")
    try:
        response.begin()
        body = response.read(MAX_ANSWER_BYTES)
    except (http.client.HTTPException, ValueError, OSError) as error:
        raise dial_failed(
            "http_garbage",
            f"What answers at {address.authority} is no web server: check host and port, and whether it is "
            "http:// or https://.",
        ) from error
    return HttpResponse(response.status, response.headers.get("Retry-After"), body)
