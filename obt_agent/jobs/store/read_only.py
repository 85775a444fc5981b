"""The store as another process may look at it: read only, while the daemon that owns it goes on."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from obt_agent.errors import ConfigError
from obt_agent.jobs.store.database import JobDatabase, _check_version
from obt_agent.jobs.store.salvage import Salvaged
from obt_agent.jobs.store.schema import VERSION

# For the daemon's lock, which it holds for milliseconds.
_WITHIN_S = 10.0


class StoreReading(JobDatabase):
    """The reading half of the store, on a connection that cannot write: nothing is migrated or set aside.

    Raises:
        ConfigError: there is none, another version wrote it, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigError(
                f"There is no job store at {path}: no agent has run with this state folder yet."
            )
        self.path = path
        self.set_aside = None
        self.salvaged = Salvaged()
        try:
            self._db = self._opened()
            try:
                row = self._db.execute("SELECT value FROM meta WHERE key = 'store_id'").fetchone()
            except sqlite3.Error:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise ConfigError(f"The job store {path} cannot be read: {error}.") from error
        self.store_id = "" if row is None else str(row[0])

    def _opened(self) -> sqlite3.Connection:
        # The mode, and not good manners, keeps this connection from writing.
        uri = f"file:{quote(str(self.path))}?mode=ro"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_WITHIN_S)
        try:
            _check_version(db)
            self._check_not_older(db)
        except BaseException:
            db.close()
            raise
        return db

    def _check_not_older(self, db: sqlite3.Connection) -> None:
        if db.execute("PRAGMA user_version").fetchone()[0] < VERSION:
            raise ConfigError(
                f"The job store {self.path} was written by an earlier version of obt-agent; "
                "start this version's agent once."
            )
