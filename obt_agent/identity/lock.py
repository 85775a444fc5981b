"""One process at a time holds a state folder, and says who it is.

The lock is ``flock`` on a file that is never removed: the kernel lets go of it when the process ends, however
it ends. The file's text names the holder; without the lock held the text means nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from typing import Final

import msgspec

from obt_agent.errors import AgentError
from obt_agent.identity.folder import Folder, FolderError

LOCK_FILE: Final = "lock"
_COMMAND_CHARS: Final = 200
_TEXT_BYTES: Final = 4096


class FolderHolder(msgspec.Struct, frozen=True, kw_only=True):
    """The process that holds a folder: ``started_at`` is Unix seconds."""

    pid: int
    started_at: float
    command: str

    def __str__(self) -> str:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started_at))
        return f"process {self.pid} ({self.command}), running since {started}"


class IdentityInUse(AgentError):
    """Another process runs with this state folder; ``holder`` is it, where its note can be read."""

    kind = "identity_in_use"
    retryable_by_default = True

    def __init__(self, folder: Folder, holder: FolderHolder | None) -> None:
        who = str(holder) if holder else "another process"
        super().__init__(
            f"The state folder {folder.path} is in use by {who}. Stop it first, "
            "or give this one a folder of its own in agent.state_dir."
        )
        self.holder = holder


def acquire(folder: Folder, *, wait: bool = False) -> int:
    """Lock the folder and note who holds it.

    Args:
        folder: the folder.
        wait: wait, blocking the thread, until the holder ends.

    Returns:
        A descriptor; closing it unlocks.

    Raises:
        IdentityInUse: another process holds it and ``wait`` is false.
        FolderError: the lock's file cannot be used.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(LOCK_FILE, flags, 0o600, dir_fd=folder.descriptor)
    except OSError as error:
        raise FolderError(f"{folder.path / LOCK_FILE} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        _note(descriptor, folder)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise IdentityInUse(folder, holder) from None
    except OSError as error:  # no room for the note, or a file system without locks
        os.close(descriptor)
        raise FolderError(f"{folder.path / LOCK_FILE} cannot be locked: {error.strerror}.") from error
    return descriptor


def holder(folder: Folder) -> FolderHolder | None:
    """Who holds the folder now; None when nobody does, or when the note cannot be read."""
    try:
        descriptor = os.open(LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.descriptor)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    finally:
        os.close(descriptor)
    return None


def _note(descriptor: int, folder: Folder) -> None:
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])[:_COMMAND_CHARS]  # noqa: PTH119 - no path is opened
    note = FolderHolder(pid=os.getpid(), started_at=time.time(), command=command)
    if os.geteuid() == 0:
        os.fchown(descriptor, *folder.owner)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, msgspec.json.encode(note), 0)


def _holder(descriptor: int) -> FolderHolder | None:
    with contextlib.suppress(
        OSError, msgspec.DecodeError
    ):  # being written at this moment: nobody can be named
        return msgspec.json.decode(os.pread(descriptor, _TEXT_BYTES, 0), type=FolderHolder)
    return None
