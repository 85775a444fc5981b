"""What honest neighbours wait for, quiet and under attack, and what is promised of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

MOST_TIMES: Final = 10.0
"""The p99 under attack is under so many times the quiet one."""


@dataclass
class Waits:
    """Seconds of each operation, by phase; one that failed waited for ever."""

    phase: str = "quiet"
    seconds: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    failures: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def measured(self, operation: str) -> Iterator[None]:
        """Time what is inside; an error is kept and not raised."""
        began, phase = time.monotonic(), self.phase
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever an honest neighbour meets is a figure here
            self.failures.append(f"{phase} {operation}: {error!r:.300}")
            self.seconds[operation][phase].append(math.inf)
        else:
            self.seconds[operation][phase].append(time.monotonic() - began)

    async def repeat(self, operation: str, pause_s: float, work: Callable[[], Awaitable[object]]) -> None:
        """Measure until cancelled."""
        while True:
            with self.measured(operation):
                await work()
            await asyncio.sleep(pause_s)

    def broken(self) -> list[str]:
        """Return each promise that was broken, in words."""
        found = []
        for operation, phases in self.seconds.items():
            quiet, attacked = percentile(phases["quiet"], 99), percentile(phases["attacked"], 99)
            if not attacked < MOST_TIMES * quiet:
                found.append(f"{operation}: p99 {attacked:.3f} s under attack, {quiet:.3f} s quiet")
        return found

    def table(self) -> list[str]:
        """Return the lines of a table."""
        lines = [
            "| honest | n | quiet p50 ms | p99 | attacked p50 | p99 | times |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for operation, phases in sorted(self.seconds.items()):
            figures = [percentile(phases[phase], at) for phase in ("quiet", "attacked") for at in (50, 99)]
            times = figures[3] / figures[1] if figures[1] else math.inf
            shown = " | ".join(f"{figure * 1e3:.1f}" for figure in figures)
            lines.append(f"| {operation} | {len(phases['attacked'])} | {shown} | {times:.1f} |")
        return lines


def percentile(values: list[float], at: float) -> float:
    """Return a percentile by nearest rank; of nothing, infinity."""
    if not values:
        return math.inf
    return sorted(values)[max(0, math.ceil(len(values) * at / 100) - 1)]
