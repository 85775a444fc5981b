"""Commands on an open database, apart from those that ask a server: those need no database to start."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from obt_server.auth.operators import Operators
from obt_server.cli.options import UsageError, add_database
from obt_server.store import Database, OperatorStore, SqlStorage


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
