"""Where a database is: a file, or a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from obt_agent.errors import ConfigError

POSTGRESQL: Final = "postgresql+psycopg"
_REMEDY: Final = f"write a file, sqlite:///FILE, or {POSTGRESQL}://USER@HOST/NAME"


def parse(where: str | Path) -> Path | URL:
    """Return the SQLite file, or the URL of a database on PostgreSQL.

    Raises:
        ConfigError: it is neither, or holds a password.
    """
    if isinstance(where, Path) or "://" not in where:
        return Path(where)
    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"This is no address of a database: {_REMEDY}.") from error
    # Arguments are seen by every user of the machine, and settings are shown.
    if url.password is not None or "password" in url.query:
        raise ConfigError(
            f"The address {url.set(query={}).render_as_string()} holds a password: take it out, and put it "
            "into a file that only its owner reads, which ?passfile=FILE names (or PGPASSFILE, or ~/.pgpass)."
        )
    if url.drivername == "sqlite" and url.host is None and url.database not in (None, "", ":memory:"):
        return Path(str(url.database))
    if url.drivername == POSTGRESQL and url.database:
        return url
    raise ConfigError(f"{where} is no address of a database that is supported: {_REMEDY}.")


def shown(where: Path | URL) -> str:
    """Return it as a person names it, and as PostgreSQL's own programs take it."""
    if isinstance(where, Path):
        return str(where)
    return where.set(drivername="postgresql").render_as_string()
