"""The state folder of one agent, held by this process for as long as it runs."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Final, Self

import msgspec

from obt_agent.file_lock import LockHolder
from obt_agent.identity import lock, machine
from obt_agent.identity.folder import Folder, FolderError, open_folder
from obt_agent.identity.uuid7 import is_uuid7, uuid7
from obt_agent.system import owners

IDENTITY_FILE: Final = "identity.json"


class StoredIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What ``identity.json`` keeps; ``machine`` is the salted hash of the machine's id, if it has one."""

    agent_id: str
    salt: str
    machine: str | None = None
    created_at: float


class StateDir:
    """A locked state folder and the identity in it.

    ``agent_id`` is a UUIDv7, made once. ``instance`` is random per process.
    ``moved_from`` is the agent id of the machine that this folder was copied from: what it held lies in a
    folder of that name now, and this agent must enrol.
    """

    def __init__(
        self, folder: Folder, lock_descriptor: int, identity: StoredIdentity, moved_from: str | None
    ) -> None:
        self._folder = folder
        # The lock's descriptor; None after ``close``.
        self._lock: int | None = lock_descriptor
        self.agent_id = identity.agent_id
        self.moved_from = moved_from
        # So that the server can tell a redial from a second process of the same agent.
        self.instance = secrets.token_hex(16)

    @classmethod
    def open(cls, path: Path, *, wait: bool = False, root: Path = Path("/")) -> Self:
        """Make, lock and read the folder; a new folder, or one copied from elsewhere, gets a new identity.

        Args:
            path: the folder (``agent.state_dir``).
            wait: wait, blocking the thread, while another process holds it.
            root: where ``/etc/machine-id`` is looked for.

        Raises:
            IdentityInUse: another process holds it; the message names it.
            FolderError: the folder or its identity cannot be used.
        """
        folder = open_folder(path)
        lock_descriptor: int | None = None
        try:
            lock_descriptor = lock.acquire(folder, wait=wait)
            identity, moved_from = _identity(folder, root)
            return cls(folder, lock_descriptor, identity, moved_from)
        except BaseException:
            if lock_descriptor is not None:
                os.close(lock_descriptor)
            folder.close()
            raise

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def folder(self) -> Folder:
        """Its files, for those that keep small ones here."""
        return self._folder

    def close(self) -> None:
        """Let go of the folder. A second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._folder.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def peek(path: Path) -> tuple[StoredIdentity | None, LockHolder | None]:
    """The identity in a folder and who holds it, without locking or making anything.

    Raises:
        FolderError: the folder exists and cannot be used.
    """
    if not path.exists():
        return None, None
    folder = open_folder(path)
    try:
        return _stored(folder), lock.holder(folder)
    finally:
        folder.close()


def _identity(folder: Folder, root: Path) -> tuple[StoredIdentity, str | None]:
    stored = _stored(folder)
    if stored is None:
        return _new(folder, root), None
    here = machine.machine_hash(stored.salt, root)
    # A machine without an id cannot be told from another: the folder stays what it was.
    if here is None or here == stored.machine:
        return stored, None
    # The machine has got an id since: it is still the same folder.
    if stored.machine is None:
        adopted = msgspec.structs.replace(stored, machine=here)
        folder.write(IDENTITY_FILE, msgspec.json.encode(adopted))
        return adopted, None
    _set_aside(folder, stored.agent_id)
    return _new(folder, root), stored.agent_id


def _stored(folder: Folder) -> StoredIdentity | None:
    data = folder.read(IDENTITY_FILE)
    if data is None:
        return None
    try:
        identity = msgspec.json.decode(data, type=StoredIdentity)
    except msgspec.DecodeError as error:
        raise _damaged(folder) from error
    if not is_uuid7(identity.agent_id):
        raise _damaged(folder)
    return identity


def _damaged(folder: Folder) -> FolderError:
    file = folder.path / IDENTITY_FILE
    return FolderError(
        f"{file} is damaged. Restore it from a backup to stay the same agent; or move it away to become "
        "a new one, and enrol again."
    )


def _new(folder: Folder, root: Path) -> StoredIdentity:
    salt = secrets.token_hex(16)
    identity = StoredIdentity(
        agent_id=str(uuid7()),
        salt=salt,
        machine=machine.machine_hash(salt, root),
        created_at=time.time(),
    )
    folder.write(IDENTITY_FILE, msgspec.json.encode(identity))
    return identity


def _set_aside(folder: Folder, agent_id: str) -> None:
    """Move everything of another machine's agent into a folder of its own: nothing lost, nothing resumed.

    The identity goes last: a process killed in between starts this anew.
    """
    aside = f"copied-from-{agent_id}"
    try:
        (folder.path / aside).mkdir(mode=0o700, exist_ok=True)
        owners.give_path(folder.path / aside, folder.owner)
        kept = {lock.LOCK_FILE, IDENTITY_FILE}
        names = {path.name for path in folder.path.iterdir()} - kept
        # Folders of earlier copies stay where they are.
        for name in [*(name for name in names if not name.startswith("copied-from-")), IDENTITY_FILE]:
            folder.directory.replace(name, f"{aside}/{name}")
        folder.directory.sync()
    except OSError as error:
        raise FolderError(
            f"The state folder {folder.path} was copied from another machine, and its files cannot be set "
            f"aside: {error.strerror}. Empty the folder, then enrol this machine."
        ) from error
