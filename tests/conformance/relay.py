"""Between the agent and the kit: passes frames on, and does one thing wrong to those of the agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Message = dict[str, Any]
Fault = Callable[[Message], list[Message]]
"""One frame of the agent to those that go on in its place."""


def unchanged(message: Message) -> list[Message]:
    return [message]


class Relay:
    """Where the agent dials; ``fault`` changes what it says, ``headers`` how it dials."""

    def __init__(self, upstream: str) -> None:
        self.fault: Fault = unchanged
        self.keeps_silent_ends = False
        self.url = ""
        self._upstream = upstream
        self._opened: dict[ServerConnection, ClientConnection] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        async with serve(
            self._serve,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol("obt.v1")],
            compression=None,
            ping_interval=None,
            process_request=self._process,
            max_size=1 << 22,
            close_timeout=0.5,
        ) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    async def _process(self, socket: ServerConnection, request: Request) -> Response | None:
        try:
            self._opened[socket] = await connect(
                self._upstream.replace("http", "ws", 1) + request.path,
                additional_headers={"Authorization": request.headers.get("Authorization", "")},
                subprotocols=[Subprotocol("obt.v1")],
                compression=None,
                ping_interval=None,
                max_size=1 << 22,
                close_timeout=0.5,
                proxy=None,
            )
        except InvalidStatus as error:
            return error.response
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        kit = self._opened.pop(socket)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._up(socket, kit))
            both.create_task(self._down(kit, socket))

    async def _up(self, agent: ServerConnection, kit: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in agent:
                for message in self.fault(json.loads(frame)):
                    await kit.send(json.dumps(message))
        if self.keeps_silent_ends:
            await kit.wait_closed()
        await kit.close(agent.close_code if agent.close_code not in (None, 1005, 1006) else 1000)

    async def _down(self, kit: ClientConnection, agent: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in kit:
                await agent.send(frame)
        await agent.close(kit.close_code if kit.close_code not in (None, 1005, 1006) else 1000)
