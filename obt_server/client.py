"""The server's public API, as any program with an API token uses it."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp

JsonObject = dict[str, Any]

CONNECT_S: Final = 5.0
# Longest silence on an event stream; the server sends a comment every 15 s.
SILENCE_S: Final = 120.0


class ApiError(Exception):
    """The API answered with an error: its ``kind``, HTTP ``status`` and message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


class Client:
    """One server.

    Args:
        url: where it answers.
        token: an API token.
        trust_env: whether a proxy of the environment is used; one cannot reach a server on this machine.
    """

    def __init__(self, url: str, token: str, *, trust_env: bool = False) -> None:
        self._base = url.rstrip("/") + "/api/v1"
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"},
            # No total: a stream lasts as long as its command.
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=SILENCE_S),
            trust_env=trust_env,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def get(self, path: str) -> Any:
        """A JSON document."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: JsonObject) -> Any:
        """The JSON answer to a JSON body."""
        return await self._ask("POST", path, body)

    async def put(self, path: str, body: JsonObject) -> Any:
        """The answer to a JSON body that is put; None where there is none."""
        return await self._ask("PUT", path, body)

    async def delete(self, path: str) -> None:
        """Delete something."""
        await self._ask("DELETE", path, None)

    async def _ask(self, method: str, path: str, body: JsonObject | None) -> Any:
        async with self._http.request(method, self._base + path, **_sent(body)) as response:
            await _check(response)
            return None if response.status == HTTPStatus.NO_CONTENT else await response.json()

    async def command(self, agent: str, method: str, params: JsonObject) -> Any:
        """The result of a command that does not stream."""
        return await self.post(f"/agents/{agent}/commands/{method}", params)

    def stream(self, agent: str, method: str, params: JsonObject) -> AsyncIterator[tuple[str, JsonObject]]:
        """Events of a command that streams; closing the iterator cancels it on the machine."""
        return self.events("POST", f"/agents/{agent}/commands/{method}", params)

    async def events(
        self, method: str, path: str, body: JsonObject | None = None
    ) -> AsyncIterator[tuple[str, JsonObject]]:
        """Name and data of each server-sent event.

        Raises:
            ApiError: the answer is an error, or the stream ended with one.
        """
        async with self._http.request(method, self._base + path, **_sent(body)) as response:
            await _check(response)
            # Of the event whose data follows; an event is a few lines, and each data here is one line.
            name = ""
            async for line in response.content:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    data = json.loads(value)
                    # After the status went out, an error can only come as an event.
                    if name == "error":
                        raise _refused(response.status, data)
                    yield name, data


def _sent(body: JsonObject | None) -> dict[str, Any]:
    """The arguments that send a body: as a file, for an image in one piece would hold the event loop."""
    if body is None:
        return {}
    text = io.BytesIO(json.dumps(body).encode())
    return {"data": text, "headers": {"Content-Type": "application/json"}}


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:  # noqa: PLR2004 - HTTP's own border of errors
        return
    try:
        body = await response.json()
    except (ValueError, aiohttp.ContentTypeError):
        body = {}
    raise _refused(response.status, body)


def _refused(status: int, body: JsonObject) -> ApiError:
    # Errors of the application have ``error``; those of its framework, such as a wrong path, ``detail``.
    error = body.get("error") or {}
    message = error.get("message") or json.dumps(body.get("detail") or f"HTTP {status}")
    return ApiError(status, error.get("kind", "http"), message)
