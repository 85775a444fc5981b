"""(b) Where the time of a token goes on its way through the agent, stage by stage, without uvloop.

Adds to (b) where a token is when: the agent's process notes, on the machine's monotonic clock, when its event
loop woke, when it read and parsed, and when it wrote. One stream alone, those of (b), and one that is fast.
The last table shows what a pause alone costs.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import statistics
import sys
import tempfile
from bisect import bisect
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from benchmarks import latency, pauses, processes
from benchmarks.sink import sink
from benchmarks.table import Column, print_table

BUSY: Final = 1000
"""Tokens a second of a stream at which the processor's caches still hold what the last token needed."""
STAGES: Final = {
    "Ollama's write to the loop's waking": "the system wakes another process",
    "to the read": "asyncio calls what is ready",
    "read and parsed": "the system's call, aiohttp's parser",
    "to the write": "the reader's coroutine, check, frame, credit, turn",
    "written": "the system's call",
    "to the server's reading it": "the system wakes another process, websockets parses",
}
TRACED: Final = """
import atexit, json, selectors, time
from asyncio import selector_events
now = time.monotonic_ns
log = {"woke": [], "read": [], "parsed": [], "write": [], "written": []}
transport = selector_events._SelectorSocketTransport
read, write, select = transport._read_ready, transport.write, selectors.EpollSelector.select
def noted_read(self):
    log["read"].append(now()); read(self); log["parsed"].append(now())
def noted_write(self, data):
    log["write"].append(now()); write(self, data); log["written"].append(now())
def noted_select(self, timeout=None):
    found = select(self, timeout); log["woke"].append(now()); return found
transport._read_ready, transport.write, selectors.EpollSelector.select = noted_read, noted_write, noted_select
atexit.register(lambda: open(place, "w").write(json.dumps(log)))
"""
"""Before ``processes.NO_UVLOOP``: asyncio's own transports, which are Python, note their calls."""


@dataclass(frozen=True)
class Log:
    """What the agent's process noted: monotonic nanoseconds, ascending."""

    woke: list[int]
    read: list[int]
    parsed: list[int]
    write: list[int]
    written: list[int]

    def stages(self, wrote: int, seen: int) -> list[float] | None:
        """The stages of one token in microseconds; None where its read or its write cannot be told."""
        at = bisect(self.read, wrote)
        sent = bisect(self.write, seen) - 1
        if at >= len(self.read) or sent < 0:
            return None
        woke = self.woke[max(bisect(self.woke, self.read[at]) - 1, 0)]
        # Already awake, for another stream's.
        times = [wrote, max(woke, wrote), self.read[at], self.parsed[at]]
        # The server may have read it before the call that wrote it returns.
        times += [self.write[sent], min(self.written[sent], seen), seen]
        found = [(after - before) / 1e3 for before, after in pairwise(times)]
        return found if min(found) >= 0 else None


async def trace(streams: int, rate: int, tokens: int) -> list[list[float]]:
    """The stages of each token, in microseconds."""
    script = {"decode_tps": rate, "tokens": tokens, "num_parallel": streams}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(processes.standin(folder, **script))
        server = await stack.enter_async_context(sink())
        place = folder / "log.json"
        prelude = f"place = {str(place)!r}\n{TRACED}"
        async with processes.agent(
            folder / "agent", server=server.url, ollama=url, uvloop=False, prelude=prelude
        ):
            await server.admitted.wait()
            await server.request("generate", latency.body(2))
            read = functools.partial(latency.by_agent, server, tokens, streams)
            pairs = await latency.pairs(read, url, tokens, streams)
        log = Log(**json.loads(place.read_text()))
    found = (log.stages(wrote, seen) for wrote, seen in pairs)
    return [one for one in found if one is not None]


def main(argv: list[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks stages", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    tokens = 50 if parser.parse_args(argv).quick else 4 * latency.TOKENS
    for streams, rate in ((1, latency.TOKENS_PER_S), (latency.STREAMS, latency.TOKENS_PER_S), (1, BUSY)):
        found = asyncio.run(trace(streams, rate, tokens))
        rows = [
            (name, statistics.median(values), statistics.quantiles(values, n=20)[18], what)
            for (name, what), values in zip(STAGES.items(), zip(*found, strict=True), strict=True)
        ]
        sums = [sum(one) for one in found]
        rows.append(("all", statistics.median(sums), statistics.quantiles(sums, n=20)[18], ""))
        print_table(
            f"(b) µs of a token's way, {streams} streams of {rate}/s, {len(found)} tokens",
            [Column("stage"), Column("p50", 0), Column("p95", 0), Column("what it is")],
            rows,
        )
    pauses.show(rounds=tokens)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
