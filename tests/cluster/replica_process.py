"""A replica as a process: ``python -m tests.cluster.replica_process ADDRESS NAME``.

It writes as the leader as fast as it can while it leads. Each line ``look`` that it prints has the time
before a look, and the epoch under which it led then, or 0.
"""

import asyncio
import contextlib
import sys
import time

from obt_agent.errors import AgentError
from obt_server.replicas.membership import Membership
from obt_server.store import Database, SqlStorage


async def work(address: str, name: str) -> None:
    with contextlib.closing(Database.open(address)) as database:
        storage = SqlStorage(database)
        member = Membership(storage)
        await member.start()
        while True:
            at = time.monotonic()
            lease = member.lease
            sys.stdout.write(f"look {at} {0 if lease is None else lease.epoch}\n")
            sys.stdout.flush()
            if lease is not None:
                note = f"{lease.epoch} {name}"
                with contextlib.suppress(AgentError):
                    await storage.fenced(lease).create_join_token(
                        f"{at}", note=note, agent_id=None, at=1.0, expires_at=1e12
                    )
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    # A test that fails may be gone: nobody reads what is printed then.
    with contextlib.suppress(BrokenPipeError):
        asyncio.run(work(*sys.argv[1:]))
