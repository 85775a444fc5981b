"""(b) What the same work takes after a pause: how much of a token's way is its work, how much cold caches.

The work is that of a token without an event loop: read from a socket, checked, framed, written. A pause is
slept or computed through: where both cost the same, it is not sleep that costs.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from typing import Final

import msgspec
from websockets.client import ClientProtocol
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from benchmarks.table import Column, print_table
from obt_agent.ollama.ndjson import LineSplitter, check

PAUSES_MS: Final = (1, 2, 4, 8, 20)
LINE: Final = b'{"model":"m","created_at":"2026-01-01T00:00:00Z","response":" word","done":false}\n'
_READ: Final = 65_536


class OneToken:
    """Sends a line through both sockets, as the agent does with what Ollama writes."""

    def __init__(self) -> None:
        self._ollama, self._server = socket.socketpair(), socket.socketpair()
        self._splitter = LineSplitter()
        self._protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=OPEN)

    def __call__(self) -> None:
        """Have one token pass."""
        self._ollama[0].send(LINE)
        for line in self._splitter.feed(self._ollama[1].recv(_READ)):
            check(line)
            item = {"t_us": 1, "chunk": msgspec.Raw(line)}
            data = {"jsonrpc": "2.0", "method": "stream.data", "params": {"id": 1, "items": [item]}}
            self._protocol.send_text(msgspec.json.encode(data))
            self._server[0].send(b"".join(self._protocol.data_to_send()))
            self._server[1].recv(_READ)

    def close(self) -> None:
        """Close the sockets."""
        for end in (*self._ollama, *self._server):
            end.close()


def compute(seconds: float) -> None:
    """Do nothing but look at the clock."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def took_us(pause: Callable[[float], None], seconds: float, rounds: int) -> float:
    """The median of so many, each after a pause, in microseconds."""
    work, found = OneToken(), []
    try:
        for _ in range(rounds):
            pause(seconds)
            began = time.perf_counter_ns()
            work()
            found.append((time.perf_counter_ns() - began) / 1e3)
    finally:
        work.close()
    return statistics.median(found)


def show(rounds: int) -> None:
    """Print the table."""
    rows = [("none", took_us(compute, 0.0, rounds), took_us(compute, 0.0, rounds))]
    rows += [
        (f"{ms} ms", took_us(time.sleep, ms / 1e3, rounds), took_us(compute, ms / 1e3, rounds))
        for ms in PAUSES_MS
    ]
    columns = [Column("pause before it"), Column("asleep, µs", 1), Column("computing, µs", 1)]
    print_table(f"(b) The same work after a pause, p50 of {rounds}", columns, rows)
