"""Suspend and routes: what is seen in the kernel's own files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from obt_agent.link.network_monitor import NetworkMonitor, default_routes, suspended_s

IPV4 = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
tun0\t00000000\t01000A0A\t0003\t0\t0\t50\t00000080\t0\t0\t0
"""
ZERO = "0" * 32
IPV6 = f"""{ZERO} 00 {ZERO} 00 fe80000000000000021122fffe334455 00000400 00000001 00000000 00450003     eth0
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
fe800000000000000000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001     eth0
"""


def files(folder: Path, ipv4: str = IPV4, ipv6: str = IPV6) -> tuple[Path, Path]:
    four, six = folder / "route", folder / "ipv6_route"
    four.write_text(ipv4)
    six.write_text(ipv6)
    return four, six


def test_default_routes_are_found_and_others_are_not(tmp_path: Path) -> None:
    assert default_routes(files(tmp_path)) == {
        ("eth0", "0102A8C0", "100"),
        ("eth0", "fe80000000000000021122fffe334455", "00000400"),
    }


def test_files_that_are_missing_or_odd_give_no_routes(tmp_path: Path) -> None:
    assert default_routes((tmp_path / "a", tmp_path / "b")) == frozenset()
    assert default_routes(files(tmp_path, "odd line\n", "\n\n")) == frozenset()


def test_this_machines_own_files_can_be_read() -> None:
    default_routes()
    assert suspended_s() > -0.1


def test_a_machine_without_that_clock_was_never_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("time.CLOCK_BOOTTIME", raising=False)
    assert suspended_s() == 0


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
