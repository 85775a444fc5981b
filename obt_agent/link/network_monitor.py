"""What makes the link dial at once: the machine woke from suspend, or its default route changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from obt_agent.hardware.host.platform import default_routes
from obt_agent.system.clocks import slept_s
from obt_agent.timer_grid import until_tick

_SUSPENDED_S: Final = 2.0


class NetworkMonitor:
    """Looks every few seconds.

    Args:
        on_wake: called with the seconds that the machine was suspended.
        on_route: called when the default routes changed and there still is one.
        interval_s: how often to look.
        clock: see ``slept_s``.
        routes: see ``default_routes``.
    """

    def __init__(
        self,
        on_wake: Callable[[float], None],
        on_route: Callable[[], None],
        *,
        interval_s: float,
        clock: Callable[[], float] = slept_s,
        routes: Callable[[], frozenset[tuple[str, str, str]]] = default_routes,
    ) -> None:
        self._on_wake = on_wake
        self._on_route = on_route
        self._interval_s = interval_s
        self._clock = clock
        self._routes = routes
        # Read now: what was before this process is no news.
        self._suspended_s = clock()
        self._known_routes = routes()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(until_tick(self._interval_s))
            self.look()

    def look(self) -> None:
        """Look once."""
        suspended = self._clock()
        slept = suspended - self._suspended_s
        self._suspended_s = suspended
        if slept >= _SUSPENDED_S:
            self._on_wake(slept)
        routes = self._routes()
        # Remembered also where none is left: the one that comes back is a change.
        if routes != self._known_routes:
            self._known_routes = routes
            if routes:
                self._on_route()
