"""Open files: flags, locks, reading at a place, reserved space, and questions to devices.

``lock`` and ``is_locked`` work on Linux, macOS and the BSDs by ``flock``, which goes with the last
descriptor of the file; on Windows by bytes that no content reaches, whose lock goes with the descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from typing import Final

# Flags that a system lacks are 0: what they keep out does not exist there, or cannot be kept out so.
_CLOSED_IN_CHILDREN: Final[int] = getattr(os, "O_CLOEXEC", 0) or getattr(os, "O_NOINHERIT", 0)
# Windows would end a text at ^Z and turn each line's end into two bytes.
_BYTES: Final[int] = getattr(os, "O_BINARY", 0)
# Opening a pipe would wait for its other side, and a terminal would become the process's own.
_AT_ONCE: Final[int] = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)

NO_LINK: Final[int] = getattr(os, "O_NOFOLLOW", 0)
"""Refuse a link in the file's place. Windows lets only administrators make links, and has no such flag."""

READ: Final[int] = os.O_RDONLY | _AT_ONCE | _BYTES | _CLOSED_IN_CHILDREN
"""Open for reading, without ever waiting."""

READ_AND_WRITE: Final[int] = os.O_RDWR | _AT_ONCE | _BYTES | _CLOSED_IN_CHILDREN
"""Open for both, without ever waiting."""

REPLACE: Final[int] = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BYTES | _CLOSED_IN_CHILDREN
"""Write from the start, whether the file is there or not."""

MAKE: Final[int] = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BYTES | _CLOSED_IN_CHILDREN
"""Write a file that must not be there: one that somebody else planted is not written into."""

_BLOCK: Final = 1 << 20
# How often Windows is asked for a lock that somebody waits for.
_AGAIN_S: Final = 0.05


if sys.platform == "win32":
    import msvcrt

    # Far behind anything that is written: other processes could not read a byte that is locked.
    _LOCKED_BYTES: Final = 1 << 30
    # One is locked by each who shares the lock, and all by who has it alone: the system knows no other way.
    _SHARES: Final = 64

    def lock(descriptor: int, *, wait: bool = False, shared: bool = False) -> None:
        """Lock the open file. Raise BlockingIOError where another process has it."""
        while not _taken(descriptor, shared=shared):
            if not wait:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            time.sleep(_AGAIN_S)

    def is_locked(descriptor: int) -> bool:
        """Return whether another process has the lock alone."""
        share = _share(descriptor)
        if share is not None:
            _try(descriptor, msvcrt.LK_UNLCK, share, 1)
        return share is None

    def _taken(descriptor: int, *, shared: bool) -> bool:
        if shared:
            return _share(descriptor) is not None
        return _try(descriptor, msvcrt.LK_NBLCK, 0, _SHARES)

    def _share(descriptor: int) -> int | None:
        return next((one for one in range(_SHARES) if _try(descriptor, msvcrt.LK_NBLCK, one, 1)), None)

    def _try(descriptor: int, what: int, first: int, count: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTES + first, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, what, count)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def lock(descriptor: int, *, wait: bool = False, shared: bool = False) -> None:
        """Lock the open file until the descriptor is closed; with ``wait`` block the thread until it is free.

        Several may hold it ``shared``, while nobody holds it alone.

        Raises:
            BlockingIOError: another process has it and ``wait`` is false.
            OSError: the file system has no locks.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))

    def is_locked(descriptor: int) -> bool:
        """Return whether another process has the lock.

        A shared lock is tried, not an exclusive one: two readers at once must not take each other for the
        holder. It ends when the caller closes the descriptor.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Return up to so many bytes from a place in the file. Raise OSError."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


def rewrite(descriptor: int, data: bytes) -> None:
    """Make these few bytes the content of an open file. Raise OSError."""
    os.ftruncate(descriptor, 0)
    if hasattr(os, "pwrite"):
        os.pwrite(descriptor, data, 0)
        return
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, data)


def reserve(descriptor: int, size: int) -> None:
    """Make the file this long with blocks of the disk behind all of it. Raise OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    # A sparse file reserves nothing: without the call each block is written.
    at = os.lseek(descriptor, 0, os.SEEK_END)
    while at < size:
        at += os.write(descriptor, bytes(min(_BLOCK, size - at)))


def ask_device(descriptor: int, request: int, argument: bytes | bytearray) -> None:
    """Put a request of the kernel's to an open device, which answers into ``argument``. Raise OSError."""
    if sys.platform == "win32":
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
    fcntl.ioctl(descriptor, request, argument)


@contextlib.contextmanager
def sealed_memory(name: str, data: bytes) -> Iterator[int]:
    """Give a descriptor of memory that holds these bytes and that nobody can change. Linux alone has it.

    Raises:
        OSError: it cannot be made.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield descriptor
