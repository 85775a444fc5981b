"""Commands on an open database, apart from those that ask a server: those need no database to start."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from obt_agent.argument_parser import JSON_OPTION, PlainArgumentParser, add_options
from obt_server.auth.operators import Operators
from obt_server.cli.options import UsageError, add_database, database_of, database_option
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


Work = Callable[[OpenStorage, argparse.Namespace], Awaitable[int]]


def add_stored_group(parser: PlainArgumentParser) -> Any:
    """Make the command a group of subcommands that work on the open database."""
    leading = {**database_option(), **JSON_OPTION}
    return parser.add_subparsers(metavar="COMMAND", required=True, leading=leading)


def add_stored_command(commands: Any, name: str, text: str, work: Work) -> PlainArgumentParser:
    """Add a subcommand to a group of such."""
    parser: PlainArgumentParser = commands.add_parser(name, help=text)
    set_stored_work(parser, work)
    return parser


def add_stored_list(commands: Any, text: str, work: Work) -> None:
    """Add the subcommand that lists what the group is about."""
    add_options(add_stored_command(commands, "list", text, work), JSON_OPTION)


def set_stored_work(parser: PlainArgumentParser, work: Work) -> None:
    """Make it a command that works on the open database."""
    add_database(parser)
    parser.set_defaults(work=lambda options: _with_stored(options, work))


def _with_stored(options: argparse.Namespace, work: Work) -> int:
    """Open the database, work, close it. A running server sees what changed within seconds."""

    async def run() -> int:
        with contextlib.closing(Database.open(database_of(options))) as database:
            return await work(OpenStorage(database), options)

    return asyncio.run(run())
