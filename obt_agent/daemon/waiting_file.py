"""Why ``run --join-token-file`` waits before the daemon runs, in a file for ``obt-agent status``.

The file stands in the state folder. It means something only while the process that wrote it holds its lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from obt_agent.file_lock import Locked, lock
from obt_agent.identity.folder import MAX_FILE_BYTES, FolderError, open_folder
from obt_agent.system import clocks, descriptors, owners

WAITING_FILE: Final = "waiting.json"
_HELD: Final = descriptors.READ_AND_WRITE | os.O_CREAT | descriptors.NO_LINK
_READ: Final = descriptors.READ | descriptors.NO_LINK


class UnattendedWait(msgspec.Struct, frozen=True, kw_only=True):
    """A process that waits: why, for a person, and at what uptime of the machine (s) it looks again."""

    pid: int
    reason: str
    again_uptime_s: float


@contextlib.contextmanager
def told_in_file(path: Path, reason: str, seconds: float) -> Iterator[None]:
    """Within the block, the state folder tells that this process waits for so many seconds, and why.

    A folder that cannot be used, or in which another process waits, tells nothing of it: the log does.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(FolderError, OSError, Locked):
            folder = held.enter_context(contextlib.closing(open_folder(path)))
            descriptor = folder.directory.open(WAITING_FILE, _HELD)
            held.callback(os.close, descriptor)
            lock(descriptor)
            owners.give(descriptor, folder.owner)
            waiting = UnattendedWait(
                pid=os.getpid(), reason=reason, again_uptime_s=clocks.uptime_s() + seconds
            )
            descriptors.rewrite(descriptor, msgspec.json.encode(waiting))
        yield


def read_waiting(path: Path) -> UnattendedWait | None:
    """Return what waits with a state folder; None where nothing does, or the folder may not be read."""
    with contextlib.ExitStack() as held, contextlib.suppress(FolderError, OSError, msgspec.MsgspecError):
        # Opening makes a folder that is not there.
        if not path.exists():
            return None
        folder = held.enter_context(contextlib.closing(open_folder(path)))
        descriptor = folder.directory.open(WAITING_FILE, _READ)
        held.callback(os.close, descriptor)
        if descriptors.is_locked(descriptor):
            return msgspec.json.decode(
                descriptors.read_at(descriptor, MAX_FILE_BYTES, 0), type=UnattendedWait
            )
    return None
