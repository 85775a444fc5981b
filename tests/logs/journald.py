"""A journal for tests: a real datagram socket, and a decoder written from the protocol's description."""

from __future__ import annotations

import array
import os
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Self


class Journald:
    """Receives entries; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "socket"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        self._socket.bind(str(self.path))
        self._socket.settimeout(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def entry(self) -> dict[str, str]:
        data, ancillary, _, _ = self._socket.recvmsg(1 << 20, socket.CMSG_LEN(4))
        if ancillary:
            data = _file(ancillary[0][2])
        return decoded(data)


def _file(rights: bytes) -> bytes:
    (descriptor,) = array.array("i", rights)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def decoded(data: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            (length,) = struct.unpack("<Q", rest[:8])
            value, data = rest[8 : 8 + length], rest[8 + length :]
            assert data[:1] == b"\n"
            data = data[1:]
        fields[name.decode()] = value.decode()
    return fields
