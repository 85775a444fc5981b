"""Opening a socket to a server."""

from __future__ import annotations

import asyncio
import contextlib
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
    # A server under another path is given in full.
    if url.startswith(("ws://", "wss://")):
        return url
    return url.rstrip("/").replace("http", "ws", 1) + CONNECT_PATH


class _WithoutPongs(ClientConnection):
    """A client whose pongs are lost."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # At the protocol's exit: pongs are sent by itself, in answer to pings.
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
    within_s: float,
    answer_within_s: float,
    pongs: bool = True,
) -> AsyncIterator[RawSocket]:
    """An open socket to a server; closed on leaving.

    Raises:
        UpgradeRefused: the upgrade was refused.
    """
    try:
        async with asyncio.timeout(within_s):
            socket = await connect(
                url,
                additional_headers={"Authorization": f"Bearer {token}"} if token is not None else {},
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                # The protocol has no extensions and no pings of its own: this side must add none.
                compression=None,
                ping_interval=None,
                max_size=1 << 22,
                # Frames are read as they come, so that their times are those of their arrival.
                max_queue=None,
                close_timeout=1,
                proxy=None,
                create_connection=ClientConnection if pongs else _WithoutPongs,
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
