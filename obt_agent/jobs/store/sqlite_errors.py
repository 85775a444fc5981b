"""SQLite's errors as the project's own: what a person can do about them, and which of them mean damage."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

from obt_agent.errors import AgentError, StorageFailed, StorageFull

# SQLite's extended result codes keep the primary one in the lowest byte.
_PRIMARY: Final = 0xFF
# A failing disk (SQLITE_IOERR) is no damage: the file may be whole when it is read again.
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# Wrong SQL or a broken constraint: no remedy of the owner's helps, and it must be seen as a fault.
_OUR_FAULT: Final = (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.InterfaceError)
_REMEDY: Final = {
    sqlite3.SQLITE_IOERR: "look at the disk that the agent's state folder lies on: it is failing or full",
    sqlite3.SQLITE_READONLY: "make the agent's state folder writable: it may be mounted read-only",
    sqlite3.SQLITE_CANTOPEN: "give the agent's user its state folder, and room in it",
    sqlite3.SQLITE_PERM: "give the agent's user its state folder",
    sqlite3.SQLITE_BUSY: "end the other program that holds it",
    sqlite3.SQLITE_LOCKED: "end the other program that holds it",
}


class StoreDamaged(StorageFailed):
    """The file is no longer a sound database."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise the project's errors for those of SQLite.

    Raises:
        StorageFull: there is no room.
        StoreDamaged: the file is damaged.
        StorageFailed: it cannot be read or written for another reason.
    """
    try:
        yield
    except _OUR_FAULT:
        raise
    except sqlite3.Error as error:
        raise of(error) from error


def of(error: sqlite3.Error) -> AgentError:
    """What an error of SQLite means."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY
    if code == sqlite3.SQLITE_FULL:
        return StorageFull(f"The agent's job store cannot be written ({error}); free some disk space.")
    if code in _DAMAGE:
        return StoreDamaged(f"The agent's job store is damaged ({error}).")
    remedy = _REMEDY.get(code, "look at the agent's log and at the disk of its state folder")
    return StorageFailed(f"The agent's job store cannot be used ({error}); {remedy}.")


def from_os(error: OSError, what: str) -> StorageFailed:
    """The same for a file beside the database."""
    return StorageFailed(
        f"{what} cannot be used ({error.strerror or error}); look at the disk of the agent's state folder."
    )
