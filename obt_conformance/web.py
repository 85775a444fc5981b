"""HTTP of the kit: enrolment at any server, and the REST interface of ``obt-server``."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class ApiResponse:
    """Status and body: a JSON value, or the text where it is none."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        """Whether HTTP calls the status a success."""
        return 200 <= self.status < 300  # noqa: PLR2004 - HTTP's border of success


async def request(
    method: str,
    url: str,
    token: str | None,
    body: dict[str, Any] | None = None,
    *,
    within_s: float | None,
    may_read: asyncio.Event | None = None,
) -> ApiResponse:
    """Send one request with ``Authorization: Bearer``, and read the whole answer, while ``may_read`` is set.

    Raises:
        OSError: nothing answered, or the answer broke off.
    """
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within_s)) as http,
            # A redirect must not carry the token to another address.
            http.request(method, url, json=body, headers=headers, allow_redirects=False) as response,
        ):
            data = bytearray()
            # What is not read here stays in the connection, and in time holds up the server.
            async for piece in response.content.iter_any():
                if may_read is not None:
                    await may_read.wait()
                data += piece
    except (aiohttp.ClientError, TimeoutError) as error:
        raise OSError(f"{url}: {type(error).__name__} {error}") from error
    text = data.decode(errors="replace")
    try:
        return ApiResponse(response.status, json.loads(text))
    except ValueError:
        return ApiResponse(response.status, text)
