"""HTTP of the kit: enrolment at any server, and the REST interface of ``obt-server``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class ApiResponse:
    """Status and body; ``body`` is None when it is no JSON."""

    status: int
    body: Any


async def post(url: str, token: str | None, body: dict[str, Any], *, within_s: float) -> ApiResponse:
    """POST a JSON body with ``Authorization: Bearer``.

    Raises:
        OSError: nothing answered.
    """
    return await _ask("POST", url, token, body, within_s)


async def get(url: str, token: str | None, *, within_s: float) -> ApiResponse:
    """GET with ``Authorization: Bearer``.

    Raises:
        OSError: nothing answered.
    """
    return await _ask("GET", url, token, None, within_s)


async def _ask(
    method: str, url: str, token: str | None, body: dict[str, Any] | None, within_s: float
) -> ApiResponse:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within_s)) as http,
            http.request(method, url, json=body, headers=_bearer(token), allow_redirects=False) as response,
        ):
            return ApiResponse(response.status, _json(await response.text()))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise OSError(f"{url}: {type(error).__name__} {error}") from error


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@asynccontextmanager
async def lines(url: str, token: str, body: dict[str, Any]) -> AsyncIterator[tuple[int, AsyncIterator[str]]]:
    """POST, and read the answer line by line; leaving the context ends the request.

    Raises:
        aiohttp.ClientError: the connection failed.
    """
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout) as http,
        http.post(url, json=body, headers=_bearer(token)) as response,
    ):
        yield response.status, _decoded(response.content)


async def _decoded(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    async for line in content:
        yield line.decode(errors="replace").rstrip("\n")
