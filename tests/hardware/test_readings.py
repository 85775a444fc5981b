"""The two readers of counters held against each other, on the Linux machine that the tests run on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from obt_agent.hardware.field_reader import Unreadable
from obt_agent.hardware.host.linux.file_readings import LinuxFileReadings
from obt_agent.hardware.host.psutil_reader import PsutilReadings, own_use
from obt_agent.hardware.host.readings import HostReadings, Moved
from obt_agent.hardware.snapshot.root import Root

MIB = 1 << 20
TRIES = 20
"""The two read one after the other, and a busy machine does much in between: one pair of so many must agree.

A difference of meaning (a unit, a column, a kind of memory) is in every pair.
"""


@pytest.fixture
def readers() -> Iterator[tuple[HostReadings, HostReadings]]:
    files = LinuxFileReadings(Root())
    yield PsutilReadings(), files
    files.close()


def smallest(differences: Iterator[float]) -> float:
    return min(difference for difference, _ in zip(differences, range(TRIES), strict=False))


def test_both_count_the_same_cpus_and_the_same_time(readers: tuple[HostReadings, HostReadings]) -> None:
    def differences() -> Iterator[float]:
        while True:
            one, other = (reader.cpu_times() for reader in readers)
            assert len(one) == len(other)
            yield max(
                max(abs(a.total_s - b.total_s), abs(a.idle_s - b.idle_s))
                for a, b in zip(one, other, strict=True)
            )

    assert smallest(differences()) <= 0.1  # ten steps of the kernel's clock


def test_both_give_the_same_load(readers: tuple[HostReadings, HostReadings]) -> None:
    def differences() -> Iterator[float]:
        while True:
            one, other = (reader.load_average() for reader in readers)
            assert len(one) == len(other) == 3
            yield max(abs(a - b) for a, b in zip(one, other, strict=True))

    assert smallest(differences()) <= 0.011  # the file has two decimals, the system's call has more


def test_both_give_the_same_memory_and_swap(readers: tuple[HostReadings, HostReadings]) -> None:
    def differences() -> Iterator[float]:
        while True:
            one, other = (reader.memory() for reader in readers)
            assert one.total_bytes == other.total_bytes
            assert one.free_bytes is not None
            assert other.free_bytes is not None
            yield abs(one.free_bytes - other.free_bytes)

    assert smallest(differences()) <= 32 * MIB
    swaps = [reader.swap().total_bytes for reader in readers]
    assert swaps[0] == swaps[1]


@pytest.mark.parametrize("kind", ["disks", "networks"])
def test_both_see_the_same_devices_with_the_same_counters(
    kind: str, readers: tuple[HostReadings, HostReadings]
) -> None:
    def differences() -> Iterator[float]:
        while True:
            one, other = (getattr(reader, kind)() for reader in readers)
            assert one.keys() == other.keys()
            yield max((apart(one[name], other[name]) for name in one), default=0)

    assert smallest(differences()) <= 4 * MIB


def apart(one: Moved, other: Moved) -> int:
    return max(abs(one.incoming - other.incoming), abs(one.outgoing - other.outgoing))


def test_both_see_the_same_use_of_a_process(readers: tuple[HostReadings, HostReadings]) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        held = [reader.process(process.pid) for reader in readers]
        pairs = [[one.read() for one in held] for _ in range(TRIES)]
        assert min(abs(a.cpu_s - b.cpu_s) for a, b in pairs) <= 0.05
        # /proc/PID/stat and statm count in batches of a few dozen pages for each thread
        assert min(abs(a.rss_bytes - b.rss_bytes) for a, b in pairs) <= MIB
    finally:
        process.communicate(b"\n")
    for one in held:
        with pytest.raises((Unreadable, OSError)):
            one.read()
        one.close()


def test_a_process_that_never_was_is_not_present_for_either(
    readers: tuple[HostReadings, HostReadings],
) -> None:
    for reader in readers:
        with pytest.raises((Unreadable, OSError)):
            reader.process(2**22 + 1).read()


def test_the_agents_own_use_is_that_of_this_process() -> None:
    use = own_use()
    assert use.rss_bytes > MIB
    assert abs(use.cpu_s - sum(os.times()[:2])) < 1


OTHER_SYSTEM = textwrap.dedent("""
    import asyncio, sys
    import psutil  # chooses its own system while it is imported
    sys.platform = "darwin"

    class NoLinux:
        def find_spec(self, name, *_):
            if name == "obt_agent.hardware.host.linux.platform":
                raise ImportError(name)

    sys.meta_path.insert(0, NoLinux())
    opened = []
    sys.addaudithook(
        lambda event, args: opened.append(args[0])
        if event in ("open", "os.listdir")
        and isinstance(args[0], str)
        and args[0].startswith(("/proc", "/sys"))
        and "psutil" not in sys._getframe(1).f_code.co_filename
        and "psutil" not in (sys._getframe(1).f_back.f_code.co_filename if sys._getframe(1).f_back else "")
        else None
    )
    from obt_agent.config.schema import HardwareConfig
    from obt_agent.hardware.service import HardwareService

    async def main():
        service = HardwareService(HardwareConfig(), providers=[])
        inventory = await service.inventory()
        await service.sample()
        await asyncio.sleep(0.3)
        sample = await service.sample()
        await service.close()
        assert inventory.cpu.logical_cores, inventory.cpu
        assert inventory.memory.total_bytes, inventory.memory
        assert inventory.host.kernel and inventory.host.arch, inventory.host
        assert sample.memory.used_bytes, sample.memory
        assert sample.cpu.utilization_ratio is not None, sample.cpu
        assert sample.network.receive_bytes_per_second is not None, sample.network
        assert set(sample.pressure.unavailable.values()) == {"no_source"}, sample.pressure
        assert not opened, opened

    asyncio.run(main())
""")


def test_a_system_without_linuxs_files_is_read_by_psutil_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_SYSTEM], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
