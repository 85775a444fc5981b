"""Suspend and routes: what is seen in the kernel's own files."""

from __future__ import annotations

import asyncio

from obt_agent.link.network_monitor import NetworkMonitor


class Machine:
    """A machine that a test puts to sleep and rewires."""

    def __init__(self) -> None:
        self.slept = 10.0
        self.routes: frozenset[tuple[str, str, str]] = frozenset({("eth0", "a", "1")})
        self.woke: list[float] = []
        self.changed = asyncio.Event()
        self.changes = 0

    def change(self) -> None:
        self.changes += 1
        self.changed.set()

    def wakeups(self, interval_s: float = 60.0) -> NetworkMonitor:
        return NetworkMonitor(
            self.woke.append,
            self.change,
            interval_s=interval_s,
            clock=lambda: self.slept,
            routes=lambda: self.routes,
        )


async def test_a_suspend_is_told_once_with_its_length() -> None:
    machine = Machine()
    wakeups = machine.wakeups()
    wakeups.look()
    machine.slept += 1.5  # the two clocks may drift; that is no suspend
    wakeups.look()
    machine.slept += 3600
    wakeups.look()
    wakeups.look()
    assert machine.woke == [3600]


async def test_a_changed_default_route_is_told_once_and_a_lost_one_not_at_all() -> None:
    machine = Machine()
    wakeups = machine.wakeups()
    wakeups.look()
    assert machine.changes == 0
    machine.routes = frozenset()
    wakeups.look()
    assert machine.changes == 0
    machine.routes = frozenset({("wlan0", "b", "2")})
    wakeups.look()
    wakeups.look()
    assert machine.changes == 1


async def test_it_looks_again_and_again() -> None:
    machine = Machine()
    looking = asyncio.create_task(machine.wakeups(0.001).run())
    machine.routes = frozenset({("wlan0", "b", "2")})
    async with asyncio.timeout(10):
        await machine.changed.wait()
    looking.cancel()
