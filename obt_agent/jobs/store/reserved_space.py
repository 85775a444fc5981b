"""Disk kept free for results: a file of the reserved size, made smaller just before a result is written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Final

from obt_agent.errors import StorageFull
from obt_agent.jobs.store import sqlite_errors
from obt_agent.system import descriptors

# No space, no quota, no file as large as this.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ReservedFile:
    """One file whose size is what is reserved. Synchronous; for the store's thread.

    Args:
        path: of the file; made when something is reserved, removed when nothing is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def size(self) -> int:
        """Bytes held now."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def resize(self, size: int) -> None:
        """Hold exactly ``size`` bytes.

        Raises:
            StorageFull: the disk has no room for them; what was held before stays held.
            StorageFailed: the file cannot be made or changed.
        """
        try:
            self._resize(size)
        except OSError as error:
            raise sqlite_errors.from_os(error, "The disk held for results") from error

    def _resize(self, size: int) -> None:
        before = self.size
        if size == before:
            return
        if size == 0:
            self._path.unlink(missing_ok=True)
            return
        self._check_room(size - before)
        descriptor = os.open(self._path, descriptors.READ_AND_WRITE | os.O_CREAT, 0o600)
        try:
            # Blocks and not a hole: a sparse file reserves nothing.
            if size > before:
                descriptors.reserve(descriptor, size)
            else:
                os.ftruncate(descriptor, size)
        except OSError as error:
            # What was allocated until the error must not fill the disk.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            if error.errno not in _FULL:
                raise
            raise _no_room(size - before) from error
        finally:
            os.close(descriptor)

    def _check_room(self, more: int) -> None:
        """Before the disk is asked: a reservation that is refused must not fill it even for a moment."""
        if more > shutil.disk_usage(self._path.parent).free:
            raise _no_room(more)


def _no_room(more: int) -> StorageFull:
    return StorageFull(
        f"The disk of the agent's state folder has no room for {more} bytes more; free some, then start the "
        "job again.",
        needed_bytes=more,
    )
