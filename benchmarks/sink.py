"""The cheapest server that an agent can have: admits, grants credit without limit, counts what comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve

from obt_agent.protocol.limits import ALIVE_INTERVAL_S

GRANT_BYTES = 1 << 20
HELLO = {"protocol": 1, "session": 1, "stream_credit_bytes": 4 << 20, "link_credit_bytes": 4 << 20}


class Sink:
    """Takes one agent, or one plain forwarder, at a time.

    ``on_frame`` is called with each frame that is not ours to answer, and the monotonic nanoseconds at which
    it came.
    """

    def __init__(self) -> None:
        self.url = ""
        self.admitted = asyncio.Event()
        self.admitted_at = 0.0
        self.bytes = 0
        self.frames = 0
        self.on_frame: Callable[[bytes, int], None] = lambda _frame, _at: None
        self._socket: ServerConnection | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0
        self._since_grant = 0

    async def serve(self, socket: ServerConnection) -> None:
        """One connection's life."""
        self._socket = socket
        alive = asyncio.create_task(self._alive(), name="sink-alive")
        try:
            with contextlib.suppress(Exception):
                while True:
                    frame = await socket.recv(decode=False)
                    await self._take(frame)
        finally:
            alive.cancel()

    async def _alive(self) -> None:
        """Say that somebody is here: an agent drops a server that is silent, and dials again."""
        await self.admitted.wait()
        while True:
            await asyncio.sleep(ALIVE_INTERVAL_S)
            await self._send({"method": "link.alive", "params": {}})

    async def _take(self, frame: bytes) -> None:
        at = time.monotonic_ns()
        self.bytes += len(frame)
        self.frames += 1
        self.on_frame(frame, at)
        if frame.startswith(b'{"jsonrpc":"2.0","method":"stream.data"') or not frame.startswith(
            b'{"jsonrpc"'
        ):
            await self._grant(len(frame))
            return
        message = json.loads(frame)
        if "id" in message and "method" in message:
            await self._answer(message)
        elif "id" in message:
            waiting = self._answers.pop(message["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

    async def _answer(self, message: dict[str, Any]) -> None:
        hello = message["method"] == "agent.hello"
        await self._send({"id": message["id"], "result": HELLO if hello else {}})
        if hello:
            self.admitted_at = time.monotonic()
            self.admitted.set()

    async def _grant(self, size: int) -> None:
        self._since_grant += size
        if self._since_grant >= GRANT_BYTES and self._answers:
            for request_id in list(self._answers):
                await self._send(
                    {"method": "stream.credit", "params": {"id": request_id, "bytes": GRANT_BYTES}}
                )
            await self._send({"method": "link.credit", "params": {"bytes": self._since_grant}})
            self._since_grant = 0

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps({"jsonrpc": "2.0", **message}))

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """Ask the agent; the whole answering message."""
        self._next_id += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[self._next_id] = answer
        await self._send({"id": self._next_id, "method": method, "params": params})
        return await answer


@contextlib.asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    """A sink that listens on a free port of this machine."""
    made = Sink()
    server: Server = await serve(
        made.serve,
        "127.0.0.1",
        0,
        compression=None,
        ping_interval=None,
        max_size=None,
        select_subprotocol=_first,
    )
    async with server:
        made.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/api/v1/agents/connect"
        yield made


def _first(_connection: ServerConnection, offered: Any) -> Any:
    return offered[0] if offered else None
