"""Users, and what a file's permission bits say of them.

Windows has neither: a file has a list of rights there, which it inherits from its folder, and what Python
shows as bits is made up. So no bit counts as set, and nobody else owns anything: what lies in a user's
profile is that user's.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HAS_OWNERS: Final = hasattr(os, "geteuid")
"""Whether files belong to users by number, and have permission bits."""

ROOT: Final = 0
_NO_NUMBER: Final = -1

OTHERS: Final = stat.S_IRWXO
EVERYBODY_ELSE: Final = stat.S_IRWXG | stat.S_IRWXO
WRITABLE: Final = stat.S_IWOTH
WRITABLE_BY_MORE: Final = stat.S_IWOTH | stat.S_IWGRP


def user() -> int:
    """Return the number of the user whose rights this process has; -1 where users have none."""
    return os.geteuid() if HAS_OWNERS else _NO_NUMBER


def is_root() -> bool:
    """Return whether this process may do everything, and what it makes would belong to root."""
    # An administrator of Windows is none: the rights of others do not open by themselves there.
    return user() == ROOT


def owner(status: os.stat_result) -> int:
    """Return the number of a file's owner; where there are none, this user's."""
    return status.st_uid if HAS_OWNERS else _NO_NUMBER


def owner_and_group(status: os.stat_result) -> tuple[int, int]:
    """Return the same with the group's number, for ``give``."""
    return (status.st_uid, status.st_gid) if HAS_OWNERS else (_NO_NUMBER, _NO_NUMBER)


def granted(status: os.stat_result, bits: int) -> int:
    """Return those of these permission bits that are set."""
    return status.st_mode & bits if HAS_OWNERS else 0


def give(file: int | Path, to: tuple[int, int]) -> None:
    """Give a file, open or not, that root made to a user and a group; as anybody else do nothing.

    Raises:
        OSError: it cannot be given.
    """
    # A file of root's in another user's folder would lock that user out.
    if is_root():
        os.chown(file, *to)


def give_path(path: Path, to: tuple[int, int]) -> None:
    """Do the same with a path that may be a link: itself is given, not what it leads to. Raise OSError."""
    if is_root():
        os.chown(path, *to, follow_symlinks=False)


def give_group(path: Path, group: int) -> None:
    """Set the group of a file, or of a link itself. Raise OSError."""
    # -1 leaves the user as it is.
    os.chown(path, -1, group, follow_symlinks=False)


def take_over(descriptor: int, status: os.stat_result) -> None:
    """Give an open file the owner, the group and the mode of another. Raise OSError."""
    if HAS_OWNERS:
        os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def set_mode(descriptor: int, mode: int) -> None:
    """Set an open file's permission bits. Raise OSError."""
    if HAS_OWNERS:
        os.fchmod(descriptor, mode)


@contextlib.contextmanager
def acting_as_owner(status: os.stat_result) -> Iterator[None]:
    """Have the rights of a folder's owner while the context lasts, if this is root; else change nothing."""
    if not is_root() or status.st_uid == ROOT:
        yield
        return
    # The group first, and back last: without root's user id the group cannot be changed.
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        yield
    finally:
        os.seteuid(ROOT)
        os.setegid(ROOT)


def group_number(name: str) -> int | None:
    """Return the number of a group; None where there is none of that name."""
    try:
        import grp  # noqa: PLC0415 - Windows has no such module
    except ImportError:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def account_names(numbers: range) -> frozenset[str]:
    """Return the names of the accounts with these numbers; none where accounts are not listed."""
    try:
        import pwd  # noqa: PLC0415 - Windows has no such module
    except ImportError:
        return frozenset()
    return frozenset(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid in numbers)


def user_name() -> str:
    """Return the name of the user that runs this process, or the number where there is no name."""
    import getpass  # noqa: PLC0415 - brings the terminal's modules: only for whoever asks

    try:
        return getpass.getuser()
    # Windows raises ImportError before Python 3.13, where no variable names the user.
    except (OSError, KeyError, ImportError):
        return str(os.getuid()) if HAS_OWNERS else "unknown"
