"""A process that serves exchanges over NATS: ``python -m tests.cluster.serving ADDRESS PREFIX``."""

from __future__ import annotations

import asyncio
import json
import sys

from obt_server.bus import Exchanges, ExchangeSettings, ReplySink
from obt_server.bus.nats import NatsBus, NatsSettings
from obt_server.hub.budget import WaitingBudget


class Work:
    """Counts what was begun and what was cancelled."""

    def __init__(self) -> None:
        self.counts = {"begun": 0, "cancelled": 0}

    async def __call__(self, body: bytes, reply: ReplySink) -> bytes:
        """Say how it stands, or work until somebody ends it."""
        if body == b"status":
            return json.dumps(self.counts).encode()
        self.counts["begun"] += 1
        try:
            await reply.send(b"first")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            raise
        raise AssertionError


async def main(address: str, prefix: str) -> None:
    """Serve until the end of the process."""
    bus = NatsBus(NatsSettings((address,)))
    await bus.start()
    exchanges = Exchanges(bus, "child", WaitingBudget(64 << 20), ExchangeSettings(prefix=prefix))
    await exchanges.start()
    await exchanges.serve(f"{prefix}.replica.child", Work())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
