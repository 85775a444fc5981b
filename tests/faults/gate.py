"""What the agent dials: the fault proxy, which can also lead new dials elsewhere."""

from __future__ import annotations

import asyncio

from tests.link.fault_proxy import FaultProxy


class Gate(FaultProxy):
    """Leads to the server, or to whoever plays its part for a while."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.home = port

    def lead_to(self, port: int | None) -> None:
        """New dials go to this port; to the server again when None."""
        self._target = ("127.0.0.1", self.home if port is None else port)

    async def cut(self) -> None:
        """Reset every connection, and wait until they are gone."""
        serving = list(self._serving)
        self.reset()
        await asyncio.gather(*serving, return_exceptions=True)

    def heal(self) -> None:
        """As if nothing had been: what was held up or lost is gone, so old connections are reset."""
        self.refusing = False
        self.lead_to(None)
        for lane in (self.up, self.down):
            lane.delay_s, lane.bytes_per_second, lane.cut_after = 0.0, None, None
            lane.resume()

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._clients)
