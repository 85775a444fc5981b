"""One process at a time holds a state folder, and says who it is (see ``obt_agent.file_lock``)."""

from __future__ import annotations

import os
from typing import Final

from obt_agent.errors import AgentError
from obt_agent.file_lock import Locked, LockHolder, command_line, current_holder, lock, write_note
from obt_agent.identity.folder import Folder, FolderError
from obt_agent.system import descriptors, owners

LOCK_FILE: Final = "lock"


class IdentityInUse(AgentError):
    """Another process runs with this state folder; ``holder`` is it, where its note can be read."""

    kind = "identity_in_use"
    retryable_by_default = True

    def __init__(self, folder: Folder, holder: LockHolder | None) -> None:
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
    flags = descriptors.READ_AND_WRITE | os.O_CREAT | descriptors.NO_LINK
    try:
        descriptor = folder.directory.open(LOCK_FILE, flags)
    except OSError as error:
        raise FolderError.from_os_error(f"{folder.path / LOCK_FILE} cannot be opened", error) from error
    try:
        lock(descriptor, wait=wait)
        # A file that root made in another user's folder would lock that user out.
        owners.give(descriptor, folder.owner)
        write_note(descriptor, command=command_line())
    except Locked as locked:
        os.close(descriptor)
        raise IdentityInUse(folder, locked.holder) from None
    # The disk is full, or the file system has no locks.
    except OSError as error:
        os.close(descriptor)
        raise FolderError.from_os_error(f"{folder.path / LOCK_FILE} cannot be locked", error) from error
    return descriptor


def holder(folder: Folder) -> LockHolder | None:
    """Return who holds the folder now; None when nobody does, or when the note cannot be read."""
    try:
        descriptor = folder.directory.open(LOCK_FILE, descriptors.READ | descriptors.NO_LINK)
    except OSError:
        return None
    try:
        return current_holder(descriptor)
    finally:
        os.close(descriptor)
