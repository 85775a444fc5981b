"""A lock on an open file, held by one process, and a note in the file that names the holder.

The kernel drops the lock (``system.descriptors``) when the last descriptor of the file is closed, however the
process ends, so that no stale lock is ever left behind. The file itself is never removed: a process that
waits for the old file's lock and one that makes the file anew would hold "the" lock at once. Without the
lock held the note means nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Final

import msgspec

from obt_agent.printable import printable
from obt_agent.system import descriptors

_MAX_COMMAND_CHARS: Final = 200
_MAX_NOTE_BYTES: Final = 4096


class LockHolder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The process that holds a lock: ``started_at`` (Unix seconds) is when it took the lock.

    ``user`` is empty where the file belongs to one user anyway.
    """

    pid: int
    started_at: float
    command: str
    user: str = ""

    def __str__(self) -> str:
        of = f" of {self.user}" if self.user else ""
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started_at))
        return f"process {self.pid}{of} ({self.command}), running since {started}"


class Locked(Exception):
    """Another process holds the lock; ``holder`` is it, where its note can be read."""

    def __init__(self, holder: LockHolder | None) -> None:
        super().__init__(str(holder) if holder else "another process")
        self.holder = holder


def lock(descriptor: int, *, wait: bool = False, shared: bool = False) -> None:
    """Lock the open file until the descriptor is closed; with ``wait`` block the thread until it is free.

    Several may hold it ``shared``, while nobody holds it alone.

    Raises:
        Locked: another process holds the lock and ``wait`` is false.
        OSError: the file system has no locks.
    """
    try:
        descriptors.lock(descriptor, wait=wait, shared=shared)
    except BlockingIOError as error:
        raise Locked(_read_note(descriptor)) from error


def write_note(descriptor: int, *, command: str, user: str = "") -> None:
    """Name this process as the holder of the locked file.

    Raises:
        OSError: the note cannot be written, for instance because the disk is full.
    """
    note = LockHolder(
        pid=os.getpid(),
        started_at=time.time(),
        command=_short(command),
        user=_short(user),
    )
    descriptors.rewrite(descriptor, msgspec.json.encode(note))


def current_holder(descriptor: int) -> LockHolder | None:
    """Return who holds the lock; None when nobody does, or when the note cannot be read.

    To ask may lock the file for other askers' sake until the caller closes the descriptor.
    """
    return _read_note(descriptor) if descriptors.is_locked(descriptor) else None


def command_line(words: int | None = None) -> str:
    """Return the program's name and its arguments, or the first ``words`` of them."""
    arguments = sys.argv[1:] if words is None else sys.argv[1 : 1 + words]
    return " ".join([os.path.basename(sys.argv[0]), *arguments])  # noqa: PTH119 - no path is opened


def _read_note(descriptor: int) -> LockHolder | None:
    # Another user may have written the note, and may be writing it now: it is bounded and made printable, and
    # one that cannot be decoded names nobody.
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        note = msgspec.json.decode(descriptors.read_at(descriptor, _MAX_NOTE_BYTES, 0), type=LockHolder)
        return msgspec.structs.replace(
            note,
            user=_short(note.user),
            command=_short(note.command),
        )
    return None


def _short(text: str) -> str:
    return printable(text, _MAX_COMMAND_CHARS)
