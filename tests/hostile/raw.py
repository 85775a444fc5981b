"""Bytes below the messages: WebSocket frames as no library sends them, and half of HTTP requests."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

TEXT, BINARY, CONTINUATION, CLOSE, PING = 0x1, 0x2, 0x0, 0x8, 0x9
MIB: Final = 1 << 20


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """Return one frame of RFC 6455; clients mask theirs, servers do not."""
    head = bytes([(0x80 if fin else 0) | (rsv << 4) | opcode])
    size, masked = len(payload), 0x80 if mask else 0
    if size < 126:
        head += bytes([masked | size])
    elif size < 1 << 16:
        head += bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", size)
    # A key of zeros masks nothing, and is a key.
    return head + (b"\0\0\0\0" if mask else b"") + payload


def _fragments(mask: bool, count: int, last: bool) -> Iterator[bytes]:
    yield frame(b"{", fin=False, mask=mask)
    piece = frame(b" ", CONTINUATION, fin=False, mask=mask) * 1000
    for _ in range(count // 1000):
        yield piece
    if last:
        yield frame(b"}", CONTINUATION, mask=mask)


def _pings(mask: bool) -> Iterator[bytes]:
    for _ in range(2000):
        yield frame(b"p" * 125, PING, mask=mask) * 100


RAW: Final[dict[str, Callable[[bool], Iterator[bytes]]]] = {
    "binary": lambda mask: iter([frame(os.urandom(MIB - 100), BINARY, mask=mask)]),
    "fragments of a byte": lambda mask: _fragments(mask, 200_000, last=True),
    "fragments without end": lambda mask: _fragments(mask, 3_000_000, last=False),
    "over the limit": lambda mask: iter([frame(b" " * (2 * MIB), mask=mask)]),
    "exabytes announced": lambda mask: iter(
        [b"\x81" + (b"\xff" if mask else b"\x7f") + b"\x7f" + b"\xff" * 7]
    ),
    "compressed flag": lambda mask: iter([frame(gzip.compress(b" " * (64 * MIB)), rsv=4, mask=mask)]),
    "reserved opcode": lambda mask: iter([frame(b"x", 0x3, mask=mask)]),
    "no UTF-8": lambda mask: iter([frame(b"\xff" * 1000, mask=mask)]),
    "masked the wrong way": lambda mask: iter([frame(b"{}", mask=not mask)]),
    "control frame of 64 KiB": lambda mask: iter([frame(b"p" * 65536, PING, mask=mask)]),
    "fragmented ping": lambda mask: iter([frame(b"p", PING, fin=False, mask=mask)]),
    "close of a byte": lambda mask: iter([frame(b"\x03", CLOSE, mask=mask)]),
    "pings that are never read": _pings,
    "half a frame": lambda mask: iter([frame(b" " * 1000, mask=mask)[:500]]),
}
"""What to write after the upgrade, piece by piece; the argument says whether the sender masks."""


def upgrade(path: str, host: str, *headers: str) -> bytes:
    """Return the request for a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol: obt.v1",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


HALF_REQUESTS: Final[dict[str, bytes]] = {
    "no word": b"",
    "half a line": b"GET /api/v1/agents HT",
    "half a head": b"POST /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "half a body": b"POST /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b'Content-Length: 60000\r\n\r\n{"name": "',
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}
"""What a socket says before it goes silent."""
