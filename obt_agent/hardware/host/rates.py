"""Rates from counters: what changed between two readings, over the time between them."""

from __future__ import annotations

from collections.abc import Mapping

from obt_agent.hardware.field_reader import Unreadable

LEAST_WINDOW_NS = 100_000_000
"""Shorter windows are not used: the kernel counts CPU time in steps of 10 ms."""


class Rates:
    """The change per second of named counters since the reading before.

    A counter that went backwards (a device that was replaced) starts afresh.
    """

    def __init__(self) -> None:
        # The reading that the next rates start from, and when it was.
        self._before: dict[str, int] = {}
        self._before_ns = 0
        # Change per second of each counter that both readings have.
        self._rates: dict[str, float] = {}

    def update(self, counters: Mapping[str, int], now_ns: int) -> None:
        """Take a reading; one that comes too soon after the last leaves the rates as they are."""
        window = now_ns - self._before_ns
        if self._before and window < LEAST_WINDOW_NS:
            return
        self._rates = {
            name: (value - self._before[name]) * 1e9 / window
            for name, value in counters.items()
            if name in self._before and value >= self._before[name]
        }
        self._before, self._before_ns = dict(counters), now_ns

    def of(self, name: str) -> float:
        """Return a counter's change per second.

        Raises:
            Unreadable: it was not read twice yet ("needs_two_readings").
        """
        try:
            return self._rates[name]
        except KeyError:
            raise Unreadable("needs_two_readings") from None

    def total(self, suffix: str) -> float:
        """Return the sum over all counters whose names end so. Raises as ``of``."""
        rates = [rate for name, rate in self._rates.items() if name.endswith(suffix)]
        if not rates:
            raise Unreadable("needs_two_readings")
        return sum(rates)
