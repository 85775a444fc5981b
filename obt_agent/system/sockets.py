"""What a socket still has to send, and sockets that have a path for a name."""

from __future__ import annotations

import array
import errno
import os
import socket
import sys
from typing import Final

if sys.platform != "win32":
    import fcntl
    import termios

# xnu, bsd/sys/socket.h: "Get number of bytes currently in send socket buffer".
_SO_NWRITE: Final = 0x1024


def unacknowledged_bytes(sock: socket.socket) -> int | None:
    """Return how many bytes the other end's kernel has not acknowledged; None where that cannot be asked."""
    try:
        if sys.platform == "win32":
            return None
        if sys.platform == "darwin":
            return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return None


def datagrams() -> socket.socket:
    """Return a socket that sends to paths.

    Raises:
        OSError: the system has no such sockets.
    """
    family: int | None = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return socket.socket(family, socket.SOCK_DGRAM)


def send_descriptor(sock: socket.socket, path: str, descriptor: int) -> None:
    """Send an open file to whoever listens at the path. Raise OSError."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]).tobytes())
    sock.sendmsg([b""], [rights], 0, path)
