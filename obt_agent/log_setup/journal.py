"""The journal's native protocol: fields in one datagram, or in a sealed memory file where they are too large.

Source: systemd's "Native Journal Protocol", https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from obt_agent.system.descriptors import sealed_memory
from obt_agent.system.sockets import datagrams, send_descriptor

SOCKET: Final = Path("/run/systemd/journal/socket")
# Bytes; what systemd's own client asks for. A burst then fits while the journal is busy.
_SEND_BUFFER: Final = 8 << 20
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Z0-9_]+", re.ASCII)
# The journal ignores fields with longer names.
_NAME_CHARS: Final = 64


class JournalSocket:
    """A socket to the journal. Sending never blocks, and never raises.

    ``lost`` counts entries that the journal did not take; the next one that it takes says how many.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)
        self._socket = datagrams()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature
        # Entries that were not taken, since the last one that was.
        self.lost = 0

    def send(self, fields: Iterable[tuple[str, str]]) -> bool:
        """Send one entry; False when the journal did not take it."""
        lost = [("OBT_LOG_LOST", str(self.lost))] if self.lost else []
        data = encode([*fields, *lost])
        try:
            self._send(data)
        except OSError:
            self.lost += 1
            return False
        self.lost = 0
        return True

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            # Too large for a datagram: it goes as a file. Other errors mean that the journal is not there.
            if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                raise
            self._send_file(data)

    def _send_file(self, data: bytes) -> None:
        # The journal reads only from memory that nobody can change under it.
        with sealed_memory("obt-log", data) as descriptor:
            send_descriptor(self._socket, self._path, descriptor)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Entries of the form ``NAME=value``; a value of several lines goes with its length before it."""
    return b"".join(_field(name, value.encode("utf-8", "replace")) for name, value in fields)


def field_name(key: str) -> str:
    """A key as the journal takes it: ``job_id`` becomes ``OBT_JOB_ID``."""
    return ("OBT_" + _NOT_IN_A_NAME.sub("_", key.upper()))[:_NAME_CHARS]


def is_stderr(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Does standard error lead to the journal? Then JOURNAL_STREAM holds its device and inode."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _field(name: str, value: bytes) -> bytes:
    # The form with "=" ends at the line's end.
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
