"""What makes the link dial at once: the machine woke from suspend, or its default route changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

ROUTE_FILES: Final = (Path("/proc/net/route"), Path("/proc/net/ipv6_route"))
_SUSPENDED_S: Final = 2.0
_IPV4_DEFAULT: Final = "00000000"
_IPV6_DEFAULT: Final = ("0" * 32, "00")
_IPV4_FIELDS, _IPV6_FIELDS = 11, 10


def suspended_s() -> float:
    """Seconds that the machine has been suspended since it booted (0 where that cannot be asked)."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return 0.0
    return time.clock_gettime(boottime) - time.clock_gettime(time.CLOCK_MONOTONIC)


def default_routes(files: Sequence[Path] = ROUTE_FILES) -> frozenset[tuple[str, str, str]]:
    """Interface, gateway and metric of every default route; empty where the files cannot be read."""
    ipv4, ipv6 = _lines(files[0], _IPV4_FIELDS), _lines(files[1], _IPV6_FIELDS)
    found = {
        (interface, gateway, metric)
        for interface, to, gateway, _, _, _, metric, mask, *_ in ipv4
        if to == mask == _IPV4_DEFAULT
    }
    found |= {
        (interface, gateway, metric)
        for to, prefix, _, _, gateway, metric, _, _, _, interface in ipv6
        if (to, prefix) == _IPV6_DEFAULT and interface != "lo"
    }
    return frozenset(found)


def _lines(path: Path, fields: int) -> list[list[str]]:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []
    return [line for line in lines if len(line) == fields]


class NetworkMonitor:
    """Looks every few seconds.

    Args:
        on_wake: called with the seconds that the machine was suspended.
        on_route: called when the default routes changed and there still is one.
        interval_s: how often to look.
        clock: see ``suspended_s``.
        routes: see ``default_routes``.
    """

    def __init__(
        self,
        on_wake: Callable[[float], None],
        on_route: Callable[[], None],
        *,
        interval_s: float,
        clock: Callable[[], float] = suspended_s,
        routes: Callable[[], frozenset[tuple[str, str, str]]] = default_routes,
    ) -> None:
        self._on_wake = on_wake
        self._on_route = on_route
        self._interval_s = interval_s
        self._clock = clock
        self._routes = routes
        self._suspended_s = clock()
        self._known_routes = routes()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            self.look()

    def look(self) -> None:
        """Look once."""
        suspended = self._clock()
        slept = suspended - self._suspended_s
        self._suspended_s = suspended
        if slept >= _SUSPENDED_S:
            self._on_wake(slept)
        routes = self._routes()
        if routes != self._known_routes:
            self._known_routes = routes
            if routes:
                self._on_route()
