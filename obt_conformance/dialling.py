"""Opening a socket to a server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode
from websockets.typing import Subprotocol

from obt_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL
from obt_conformance.wire import RawSocket


class UpgradeRefused(Exception):
    """The upgrade was refused, or the answer was none. ``status`` 0: no HTTP answer came."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def socket_url(url: str) -> str:
    """The address that agents dial, from ``http(s)://host`` or a full ``ws(s)://`` address."""
    if url.startswith(("ws://", "wss://")):
        return url
    return url.rstrip("/").replace("http", "ws", 1) + CONNECT_PATH


class _WithoutPongs(ClientConnection):
    """A client whose pongs are lost."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        send = self.protocol.send_frame

        def send_but_pongs(frame: WebSocketFrame) -> None:
            if frame.opcode is not Opcode.PONG:
                send(frame)

        self.protocol.send_frame = send_but_pongs  # type: ignore[method-assign] # the library has no such switch


@contextlib.asynccontextmanager
async def dial(
    url: str,
    token: str | None,
    *,
    answer_within_s: float,
    subprotocol: str | None = SUBPROTOCOL,
    pongs: bool = True,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RawSocket]:
    """An open socket to a server; closed on leaving.

    Raises:
        Refusal: the upgrade was refused.
    """
    try:
        async with asyncio.timeout(answer_within_s):
            socket = await connect(
                url,
                additional_headers={"Authorization": f"Bearer {token}"} if token is not None else {},
                subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
                compression=None,
                ping_interval=None,
                max_size=1 << 22,
                max_queue=None,
                close_timeout=1,
                proxy=None,
                create_connection=ClientConnection if pongs else _WithoutPongs,
                ssl=tls,
            )
    except InvalidStatus as error:
        raise UpgradeRefused(error.response.status_code, f"HTTP {error.response.status_code}") from error
    except (InvalidHandshake, OSError) as error:
        raise UpgradeRefused(0, f"{type(error).__name__}: {error}") from error
    wire = RawSocket(socket, answer_within_s=answer_within_s)
    try:
        yield wire
    finally:
        await wire.close()
