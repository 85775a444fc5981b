"""A scripted server at the wire: a real WebSocket server that does what a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's side of one connection."""

    def __init__(self, socket: ServerConnection, server: ServerDouble) -> None:
        self.socket = socket
        self.server = server
        self.frames: list[Any] = []
        self._unread: asyncio.Queue[Any] = asyncio.Queue()
        self._next_id = 1000

    async def send(self, message: dict[str, Any] | str | bytes) -> None:
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def request(self, method: str, params: dict[str, Any] | None = None, id: Any = None) -> Any:
        """Send a request; give its id."""
        request_id = id
        if request_id is None:
            self._next_id += 1
            request_id = self._next_id
        await self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}})
        return request_id

    async def notify(self, method: str, params: dict[str, Any] | None = None) -> None:
        await self.send({"jsonrpc": "2.0", "method": method, "params": params or {}})

    async def answer(self, request: dict[str, Any], result: Any) -> None:
        await self.send({"jsonrpc": "2.0", "id": request["id"], "result": result})

    async def receive(self) -> dict[str, Any]:
        """The next message, whatever it is."""
        text = await self.socket.recv()
        message: dict[str, Any] = json.loads(text)
        message["bytes"] = len(text.encode() if isinstance(text, str) else text)
        self.frames.append(message)
        return message

    async def expect(self, method: str | None = None, *, id: Any = None) -> dict[str, Any]:
        """The next message with this method, or this answered id; others are passed over."""
        while True:
            message = await self.receive()
            if method is not None and message.get("method") == method:
                return message
            if method is None and "method" not in message and message.get("id") == id:
                return message

    async def admit(self, **more: Any) -> dict[str, Any]:
        """Answer the hello."""
        hello = await self.expect("agent.hello")
        self.server.session += 1
        await self.answer(hello, {"protocol": 1, "session": self.server.session, **more})
        params: dict[str, Any] = hello["params"]
        return params

    async def until_closed(self) -> int:
        """Read on; the close code when the agent has gone."""
        with contextlib.suppress(ConnectionClosed):
            async for _ in self.socket:
                pass
        return self.socket.close_code or 0


class ServerDouble:
    """Serves each connection with the next script; the last one serves all further ones."""

    def __init__(
        self,
        *scripts: Script,
        refusals: list[Response] | None = None,
        tls: ssl.SSLContext | None = None,
        subprotocol: str | None = "obt.v1",
    ) -> None:
        self.scripts = list(scripts)
        self.refusals = refusals if refusals is not None else []
        self.requests: list[Request] = []
        self.peers: list[Peer] = []
        self.session = 0
        self.errors: list[BaseException] = []
        self._tls = tls
        self._subprotocol = subprotocol
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            ssl=self._tls,
            subprotocols=[Subprotocol(self._subprotocol)] if self._subprotocol else None,
            compression=None,
            ping_interval=None,
            process_request=self._process_request,
            select_subprotocol=self._select,
            max_size=1 << 22,
            close_timeout=0.2,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        for peer in self.peers:
            peer.socket.transport.abort()
        self._server.close()
        await self._server.wait_closed()
        if self.errors and kind is None:
            raise self.errors[0]

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    def _select(self, _: ServerConnection, offered: Any) -> Subprotocol | None:
        return Subprotocol(self._subprotocol) if self._subprotocol and self._subprotocol in offered else None

    def _process_request(self, _: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        return self.refusals.pop(0) if self.refusals else None

    async def _serve(self, socket: ServerConnection) -> None:
        peer = Peer(socket, self)
        self.peers.append(peer)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        try:
            await script(peer)
        except ConnectionClosed:
            pass  # a test that waits for what did not come says so itself
        except Exception as error:  # noqa: BLE001 - the test sees it at its end
            self.errors.append(error)


def refusal(status: int, headers: dict[str, str] | None = None, body: bytes = b"no") -> Response:
    """An HTTP answer in place of the upgrade."""
    return Response(status, "refused", Headers(headers or {}), body)


@asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]],
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A server that is no WebSocket server; its URL."""
    serving: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"http://localhost:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*serving)
