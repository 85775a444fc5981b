"""Three servers that start at once on a new PostgreSQL make one operator between them."""

from __future__ import annotations

import asyncio
import contextlib

from obt_server.auth.operators import Operators
from obt_server.store import Database, OperatorStore


async def test_three_first_starts_make_one_operator_with_one_password(database: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        opened = await asyncio.gather(*(asyncio.to_thread(Database.open, database) for _ in range(3)))
        for database_of_one in opened:
            stack.callback(database_of_one.close)
        operators = [Operators(OperatorStore(one)) for one in opened]
        made = await asyncio.gather(*(one.create_first("admin") for one in operators))
        passwords = [password for password in made if password is not None]
        # Each of the others prints none, so that nobody keeps one that opens nothing.
        assert len(passwords) == 1
        for one in operators:
            assert (await one.sign_in("admin", passwords[0], "192.0.2.1")).operator == "admin"
            assert await one.store.names() == ["admin"]
