"""A private folder: files that survive a power cut, and that nobody else can read, plant or swap.

All access goes through the open folder: a name that is exchanged meanwhile leads nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from obt_agent.errors import ConfigError
from obt_agent.system import descriptors, owners
from obt_agent.system.directory import Directory, open_directory

# The files here are a few hundred bytes; a damaged one must not fill the memory.
MAX_FILE_BYTES: Final = 64 << 10
_ELSEWHERE: Final = "name another in agent.state_dir, or run as the user that owns it"
# A link would lead out of the folder; a FIFO would block the open for ever.
_READ: Final = descriptors.READ | descriptors.NO_LINK
_CREATE: Final = descriptors.MAKE | descriptors.NO_LINK


# Failures of the file system that somebody mends without touching the configuration, and how.
_REMEDIES: Final = {
    errno.EROFS: "mount the file system writable",
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space: the user's quota is used up",
    errno.EIO: "check the disk: it is failing",
}


class FolderError(ConfigError):
    """The state folder, or a file in it, cannot be used; the message says what to do.

    It is retryable where the file system fails (read-only, full, an error of the disk): that may pass, so
    that the service is started again. A wrong owner, or a damaged file, does not pass.
    """

    @classmethod
    def from_os_error(cls, text: str, error: OSError, remedy: str = "") -> FolderError:
        """Return the error for ``text`` (without a full stop), with the system's reason and a remedy."""
        mends = _REMEDIES.get(error.errno or 0, "")
        advice = mends or remedy
        reason = f"{text}: {error.strerror or error}" + (f"; {advice}." if advice else ".")
        return cls(reason, retryable=bool(mends))


@dataclass(frozen=True)
class Folder:
    """A folder of mode 0700, open. ``owner`` is its user and group: what root writes here belongs to them."""

    path: Path
    directory: Directory
    owner: tuple[int, int]

    def close(self) -> None:
        """Let go of it."""
        self.directory.close()

    def read(self, name: str) -> bytes | None:
        """The file's bytes, or None where there is no such file.

        Raises:
            FolderError: it is a link, somebody else's, readable by others, too large, or unreadable.
        """
        try:
            descriptor = self.directory.open(name, _READ)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._os_error(name, "cannot be read", error) from error
        with os.fdopen(descriptor, "rb") as file:
            # Of the open file, not of the name, which may be exchanged meanwhile.
            self._check(name, os.fstat(descriptor))
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise self._error(name, f"is damaged: it is over {MAX_FILE_BYTES} bytes long")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Replace the file as a whole, mode 0600; when this returns, a power cut does not undo it.

        Raises:
            FolderError: the disk is full, or the folder may not be written.
        """
        # Another name for each attempt: what a killed process left behind is not in the way.
        temporary = f".{name}.{secrets.token_hex(4)}"
        try:
            self._write_new(temporary, data)
            self.directory.replace(temporary, name)
            # The file is on the disk already; its name is there after this.
            self.directory.sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.directory.remove(temporary)
            raise self._os_error(name, "cannot be written", error) from error

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing what had it, durably.

        Raises:
            FolderError: it cannot be done.
        """
        try:
            self.directory.replace(old, new)
            self.directory.sync()
        except OSError as error:
            raise self._os_error(old, "cannot be renamed", error) from error

    def remove(self, name: str) -> None:
        """Remove a file, durably; one that is not there is no error.

        Raises:
            FolderError: it cannot be removed.
        """
        try:
            self.directory.remove(name)
            self.directory.sync()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._os_error(name, "cannot be removed", error) from error

    def _write_new(self, name: str, data: bytes) -> None:
        descriptor = self.directory.open(name, _CREATE)
        with os.fdopen(descriptor, "wb") as file:
            # Before there is a secret in it, and so that the service can read what root wrote.
            owners.give(descriptor, self.owner)
            file.write(data)
            file.flush()
            os.fsync(descriptor)

    def _check(self, name: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise self._error(name, "is not a regular file; move it away")
        # Root could write anything anyway.
        if (user := owners.owner(status)) not in {self.owner[0], owners.ROOT}:
            raise self._error(name, f"belongs to user {user}; move it away")
        if owners.granted(status, owners.EVERYBODY_ELSE):
            raise self._error(name, f"can be read by other users: chmod 600 {self.path / name}")

    def _os_error(self, name: str, text: str, error: OSError) -> FolderError:
        return FolderError.from_os_error(f"{self.path / name} {text}", error)

    def _error(self, name: str, text: str) -> FolderError:
        return FolderError(f"{self.path / name} {text}.")


def open_folder(path: Path) -> Folder:
    """Make the folder if it is not there, check who owns it, close it to others, and open it.

    A link to it is followed if root or this user made it (systemd's ``DynamicUser=`` makes one).

    Raises:
        FolderError: it cannot be made, is no folder, or belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_link(path)
        directory = open_directory(path.resolve())
    except OSError as error:
        text = f"The state folder {path} cannot be used"
        raise FolderError.from_os_error(text, error, _ELSEWHERE) from error
    # What ``resolve`` raises for a loop of links.
    except RuntimeError as error:
        raise FolderError(f"The state folder {path} cannot be used: {error}; {_ELSEWHERE}.") from error
    try:
        return _checked(path, directory)
    except BaseException:
        directory.close()
        raise


def _check_link(path: Path) -> None:
    status = path.lstat()
    user = owners.owner(status)
    if stat.S_ISLNK(status.st_mode) and user not in {owners.ROOT, owners.user()}:
        raise FolderError(f"The state folder {path} is a link that user {user} made; remove it.")


def _checked(path: Path, directory: Directory) -> Folder:
    status = directory.status()
    if owners.user() not in {owners.ROOT, owner := owners.owner(status)}:
        raise FolderError(
            f"The state folder {path} belongs to user {owner}. Run as that user, "
            "or name another folder in agent.state_dir."
        )
    # Closed and not refused: mkdir -p, or a package, may have made it open.
    if owners.granted(status, owners.EVERYBODY_ELSE):
        directory.close_to_others()
    return Folder(path, directory, owners.owner_and_group(status))
