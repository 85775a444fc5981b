"""Floods of a line of the log: a few pass, and the rest are counted."""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

BURST: Final = 50
"""Equal lines within ``WINDOW_S`` that pass. A fleet's return writes more."""
WINDOW_S: Final = 10.0
ALWAYS_WRITTEN: Final = frozenset({"audit.command", "gateway.answered"})
"""Who had what done: each of them counts, and only those who may do it can cause one."""
MAX_KINDS: Final = 256
"""Of lines that are counted at once; names of events and formats are the program's own, so there are few."""


@dataclass
class _Count:
    since: float
    passed: int = 0
    folded: int = 0


class LineLimit:
    """Counts lines by what stands in the program: an event's name, or a library's format."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def admit(self, kind: str, now: float) -> int | None:
        """Return how many of the kind were left out before this one; None where it is left out itself."""
        if kind in ALWAYS_WRITTEN:
            return 0
        # All forgotten at once: it happens only if kinds are not what they should be, and then memory matters
        # more than a count.
        if kind not in self._counts and len(self._counts) >= MAX_KINDS:
            self._counts.clear()
        count = self._counts.setdefault(kind, _Count(now))
        folded = 0
        if now - count.since >= WINDOW_S:
            # Told with the first line of the next window, so that no flood ends unsaid.
            folded = count.folded
            self._counts[kind] = count = _Count(now)
        if count.passed >= BURST:
            count.folded += 1
            return None
        count.passed += 1
        return folded


class _Library(logging.Filter):
    def __init__(self, limit: LineLimit) -> None:
        super().__init__()
        self._limit = limit

    def filter(self, record: logging.LogRecord) -> bool:
        # By the format and not the text: addresses and numbers in it would make each line a kind of its own.
        folded = self._limit.admit(f"{record.name}: {str(record.msg)[:200]}", time.monotonic())
        if folded:
            record.msg = f"{record.msg} (and {folded} like it before)"
        return folded is not None


def limit_lines() -> None:
    """Limit what this process logs: its own events, and what asyncio and uvicorn say of connections."""
    limit = LineLimit()

    def own(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # By the event's name alone, which stands in the program: what an agent sends is in the fields.
        folded = limit.admit(str(event.get("event")), time.monotonic())
        if folded is None:
            raise structlog.DropEvent
        return {**event, "folded": folded} if folded else event

    # First of all processors: a line that is left out costs no formatting.
    structlog.configure(processors=[own, *structlog.get_config()["processors"]])
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(_Library(limit))
