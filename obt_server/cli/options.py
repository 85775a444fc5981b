"""What several commands share: where the database is, and an open one."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from obt_server.auth.operators import Operators
from obt_server.store import Database, OperatorStore, SqlStorage


class UsageError(Exception):
    """The arguments cannot be used; exit status 2."""


def default_database() -> Path:
    """``$OBT_SERVER_DATABASE``, else in the user's data folder."""
    # For services and containers, which have no home.
    named = os.environ.get("OBT_SERVER_DATABASE")
    if named:
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "obt-server" / "obt.sqlite3"


def add_database(parser: argparse.ArgumentParser) -> None:
    """The option that every command has."""
    parser.add_argument(
        "--database",
        type=Path,
        default=default_database(),
        metavar="FILE",
        help="SQLite file (default: $OBT_SERVER_DATABASE, else %(default)s)",
    )


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHORTEST_S: Final = 60


def duration_up_to(days: int) -> Callable[[str], float]:
    """A reader of ``90s``, ``30m``, ``1h``, ``7d`` as seconds: one minute to so many days."""

    def read(text: str) -> float:
        # Bounded digits: float("1e999") and "٣h" are no durations either.
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])", text)
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not _SHORTEST_S <= seconds <= days * 86400:
            raise argparse.ArgumentTypeError(f"{text!r}: write 30m, 1h or 7d; one minute to {days} days")
        return seconds

    return read


def port(text: str) -> int:
    """A port's number; 0 is any free one."""
    # int() alone takes "+80", " 80" and "8_0" too.
    if re.fullmatch(r"[0-9]{1,5}", text) is None or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r}: a port is a number from 0 to {_LAST_PORT}")
    return int(text)


_LAST_PORT: Final = 65535


def when(at: float) -> str:
    """Unix seconds for a person."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


class OpenStorage:
    """An open database with what the commands need of it."""

    def __init__(self, database: Database) -> None:
        self.storage = SqlStorage(database)
        self.operators = Operators(OperatorStore(database))

    async def agent_id(self, id_or_name: str) -> str:
        """Return the id of the agent of that id or name. Raise UsageError."""
        # Ids first: an agent may be named like another one's id.
        if await self.storage.agent(id_or_name) is not None:
            return id_or_name
        named = await self.storage.agents_named(id_or_name)
        if named:
            # This storage lets no two have one name.
            return named[0].id
        raise UsageError(f"no agent has the id or name {id_or_name!r} (obt-server tokens list shows them)")


def add_stored_command(
    commands: Any, name: str, text: str, work: Callable[[OpenStorage, argparse.Namespace], Awaitable[int]]
) -> argparse.ArgumentParser:
    """Add a subcommand that works on the open database."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    add_database(parser)
    parser.set_defaults(command=lambda options: _with_stored(options, work))
    return parser


def _with_stored(
    options: argparse.Namespace, work: Callable[[OpenStorage, argparse.Namespace], Awaitable[int]]
) -> int:
    """Open the database, work, close it. A running server sees what changed within seconds."""

    async def run() -> int:
        with contextlib.closing(Database.sqlite(options.database)) as database:
            return await work(OpenStorage(database), options)

    return asyncio.run(run())
