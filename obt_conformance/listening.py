"""The kit's listener for agents: a WebSocket server that can also refuse an upgrade."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from obt_agent.protocol.limits import SUBPROTOCOL
from obt_conformance.checks import RuleBroken
from obt_conformance.wire import RawSocket


class AgentListener:
    """Where agents dial.

    Args:
        answer_within_s: how long answers on its sockets may take.
    """

    def __init__(self, *, answer_within_s: float) -> None:
        # Every upgrade that was asked for, those that were refused among them.
        self.dials: list[Request] = []
        # 0 until it listens.
        self.port = 0
        # How the next upgrades are answered in place of 101.
        self._refusals: deque[Response] = deque()
        self._answer_within_s = answer_within_s
        # Upgraded, and not handed out yet: an agent may redial before a check asks for its socket.
        self._sockets: asyncio.Queue[RawSocket] = asyncio.Queue()
        self._dialled = asyncio.Event()

    @contextlib.asynccontextmanager
    async def open(self, host: str, port: int) -> AsyncIterator[None]:
        """Listen.

        Raises:
            OSError: the port cannot be had.
        """
        async with serve(
            self._serve,
            host,
            port,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            ping_interval=None,
            process_request=self._process,
            max_size=1 << 22,
            max_queue=None,
            close_timeout=1,
        ) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield
            # Sockets that no check asked for would hold up the server's close.
            while not self._sockets.empty():
                await self._sockets.get_nowait().close()

    async def first_dial(self, within_s: float) -> None:
        """Wait until an agent has dialled at all.

        Raises:
            ConnectionError: none did.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._dialled.wait()
        except TimeoutError:
            raise ConnectionError(f"no agent dialled within {within_s:g} s") from None

    async def next(self, within_s: float) -> RawSocket:
        """The next socket that an agent opens, the newest if it opened several.

        Raises:
            RuleBroken: none came.
        """
        try:
            async with asyncio.timeout(within_s):
                wire = await self._sockets.get()
                # An agent that was kept waiting may have given up and dialled again.
                while wire.closed is not None:
                    wire = await self._sockets.get()
                return wire
        except TimeoutError:
            raise RuleBroken(f"the agent did not dial within {within_s:g} s") from None

    def _process(self, _: ServerConnection, request: Request) -> Response | None:
        self.dials.append(request)
        self._dialled.set()
        return self._refusals.popleft() if self._refusals else None

    def refuse_next(self, status: int, *headers: tuple[str, str]) -> None:
        """Answer the next upgrade with a status."""
        body = b"refused by the conformance kit"
        self._refusals.append(Response(status, "refused", Headers(headers), body))

    async def _serve(self, socket: ServerConnection) -> None:
        wire = RawSocket(socket, answer_within_s=self._answer_within_s)
        self._sockets.put_nowait(wire)
        # The library closes the socket when this returns.
        await wire.until_closed(None if wire.closed else 1e9)
