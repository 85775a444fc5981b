"""A folder whose files are reached through it: a name that is exchanged meanwhile leads nowhere.

Where the system has no calls for that, files are reached by the folder's path: Windows, which lets nobody but
its owner exchange a folder of a user's profile.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

from obt_agent.system import descriptors, owners

_REACHES_THROUGH: Final = hasattr(os, "O_DIRECTORY") and os.open in os.supports_dir_fd


class Directory(Protocol):
    """An open folder. Everything raises OSError."""

    def status(self) -> os.stat_result:
        """Return what the system says of the folder itself."""

    def close_to_others(self) -> None:
        """Take all rights from everybody but the owner."""

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open a file of it."""

    def replace(self, old: str, new: str) -> None:
        """Give a file of it another name (or one of a folder in it), replacing what had that."""

    def remove(self, name: str) -> None:
        """Remove a file of it."""

    def sync(self) -> None:
        """Have the disk keep its names; where the system does so by itself, or cannot, do nothing."""

    def close(self) -> None:
        """Let go of it."""


class OpenDirectory:
    """``Directory`` through a descriptor."""

    def __init__(self, path: Path) -> None:
        # A pipe or a device in the folder's place would wait, or do something, when it is opened.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | descriptors.NO_LINK
        self.descriptor = os.open(path, flags)

    def status(self) -> os.stat_result:
        """Return what the system says of the folder itself."""
        return os.fstat(self.descriptor)

    def close_to_others(self) -> None:
        """Take all rights from everybody but the owner."""
        owners.set_mode(self.descriptor, 0o700)

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open a file of it."""
        return os.open(name, flags, mode, dir_fd=self.descriptor)

    def replace(self, old: str, new: str) -> None:
        """Give a file of it another name."""
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a file of it."""
        os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Have the disk keep its names."""
        # A file's own sync does not keep the name that it has here.
        os.fsync(self.descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


class NamedDirectory:
    """``Directory`` by its path."""

    def __init__(self, path: Path) -> None:
        # Raises what opening a folder raises: there is none, it is a file, or it may not be read.
        with os.scandir(path):
            self._path = path

    def status(self) -> os.stat_result:
        """Return what the system says of the folder itself."""
        return self._path.stat()

    def close_to_others(self) -> None:
        """Do nothing: the folder has its rights from the one that it lies in."""

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open a file of it."""
        return os.open(self._path / name, flags, mode)

    def replace(self, old: str, new: str) -> None:
        """Give a file of it another name."""
        # Not rename, which refuses a name that is taken on Windows.
        (self._path / old).replace(self._path / new)

    def remove(self, name: str) -> None:
        """Remove a file of it."""
        (self._path / name).unlink()

    def sync(self) -> None:
        """Do nothing: a folder cannot be synced, and NTFS keeps names in its journal."""

    def close(self) -> None:
        """Do nothing: nothing is open."""


def open_directory(path: Path) -> Directory:
    """Open a folder, and no link. Raise OSError."""
    return OpenDirectory(path) if _REACHES_THROUGH else NamedDirectory(path)
