"""A Starlette WebSocket as the hub's socket, and refusals before the upgrade that keep their status."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from obt_server.hub.sockets import BinaryFrame, SocketClosed

ABORT_EXTENSION = "obt.abort"
"""Set in the scope by servers that can drop a connection at once (``obt_server.serve``)."""


@dataclass
class LinkTraffic:
    """Frames and their bytes of all agents' sockets, since the process began; TLS and headers not counted."""

    received_frames: int = 0
    received_bytes: int = 0
    sent_frames: int = 0
    sent_bytes: int = 0


class StarletteSocket:
    """An accepted WebSocket. One task receives; sends may come from any."""

    def __init__(self, websocket: WebSocket, traffic: LinkTraffic | None = None) -> None:
        self._websocket = websocket
        self._traffic = traffic or LinkTraffic()
        self._closed: SocketClosed | None = None

    async def receive(self) -> str | bytes:
        """See ``HubSocket``."""
        # The low-level call: receive_text() fails on a binary frame in a way that says nothing of it.
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            self._closed = SocketClosed(message.get("code") or 1006, message.get("reason") or "")
            raise self._closed
        text: str | None = message.get("text")
        # Agents speak text alone (obt.v1); the hub closes with the code for that.
        if text is None:
            raise BinaryFrame
        self._traffic.received_frames += 1
        # Characters, which are bytes but for other alphabets: to count those would encode each frame.
        self._traffic.received_bytes += len(text)
        return text

    async def send(self, frame: bytes) -> None:
        """See ``HubSocket``."""
        try:
            # ASGI takes text as str. Frames are made as bytes, which are UTF-8.
            await self._websocket.send_text(frame.decode())
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise SocketClosed(1006, "the socket has ended") from error
        self._traffic.sent_frames += 1
        self._traffic.sent_bytes += len(frame)

    async def close(self, code: int, reason: str) -> None:
        """See ``HubSocket``. A code that no frame may carry (the peer is gone) is not sent."""
        if self._closed is not None or code in (1005, 1006):
            return
        # A second close would be an error of the framework's, and this one is only tidy.
        if self._websocket.application_state is WebSocketState.DISCONNECTED:
            return
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            await self._websocket.close(code, _short(reason))

    def abort(self) -> None:
        """See ``HubSocket``."""
        # Another server than this project's has no such extension: there the peer gets its close frame when
        # it reads.
        abort = self._websocket.scope.get("extensions", {}).get(ABORT_EXTENSION, {}).get("abort")
        if abort is not None:
            abort()


def _short(reason: str) -> str:
    """A close frame holds 123 bytes."""
    return reason.encode()[:120].decode(errors="ignore")


async def refuse(websocket: WebSocket, response: Response) -> None:
    """Refuse the upgrade with a status, where the server can; else ASGI makes it 403."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(response)
    else:
        await websocket.close()
