"""Bytes that disks and network interfaces move per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from obt_agent.hardware.field_reader import FieldReader, optional
from obt_agent.hardware.host.rates import Rates
from obt_agent.hardware.samples import DiskSample, NetworkSample
from obt_agent.hardware.snapshot.root import FileCache, Root

_NOT_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd")
"""Block devices that are no disks, or stand for disks that are counted by themselves."""

_SECTOR = 512
_DISKSTATS_READ, _DISKSTATS_WRITTEN = 5, 9
_NET_RECEIVED, _NET_SENT = 0, 8


class IoCounters:
    """Rates since the reading before."""

    def __init__(self, root: Root, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._root = root
        self._clock = clock
        self._hot = FileCache(root)
        self._disk = Rates()
        self._network = Rates()
        self._disks: frozenset[str] = frozenset()
        self._interfaces: frozenset[str] = frozenset()

    def probe(self) -> None:
        """Look again for disks, and for interfaces with a device (in a container all but loopback)."""
        disks = optional(partial(self._root.names, "/sys/block")) or []
        self._disks = frozenset(name for name in disks if not name.startswith(_NOT_DISKS))
        found = optional(partial(self._root.names, "/sys/class/net")) or []
        physical = [name for name in found if self._root.exists(f"/sys/class/net/{name}/device")]
        self._interfaces = frozenset(physical or [name for name in found if name != "lo"])

    def disk(self) -> DiskSample:
        """Since the sample before."""
        gaps = FieldReader()
        gaps.read("read_bytes_per_second", self._update_disk)
        return DiskSample(
            read_bytes_per_second=gaps.read("read_bytes_per_second", partial(self._disk.total, " read")),
            write_bytes_per_second=gaps.read("write_bytes_per_second", partial(self._disk.total, " written")),
            unavailable=gaps.reasons,
        )

    def network(self) -> NetworkSample:
        """Since the sample before."""
        gaps = FieldReader()
        gaps.read("receive_bytes_per_second", self._update_network)
        return NetworkSample(
            receive_bytes_per_second=gaps.read(
                "receive_bytes_per_second", partial(self._network.total, " received")
            ),
            transmit_bytes_per_second=gaps.read(
                "transmit_bytes_per_second", partial(self._network.total, " sent")
            ),
            unavailable=gaps.reasons,
        )

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()

    def _update_disk(self) -> None:
        counters = {}
        for words in map(str.split, self._hot.text("/proc/diskstats").splitlines()):
            if len(words) > _DISKSTATS_WRITTEN and words[2] in self._disks:
                counters[f"{words[2]} read"] = int(words[_DISKSTATS_READ]) * _SECTOR
                counters[f"{words[2]} written"] = int(words[_DISKSTATS_WRITTEN]) * _SECTOR
        self._disk.update(counters, self._clock())

    def _update_network(self) -> None:
        counters = {}
        for line in self._hot.text("/proc/net/dev").splitlines():
            name, colon, rest = line.partition(":")
            words = rest.split()
            if colon and name.strip() in self._interfaces and len(words) > _NET_SENT:
                counters[f"{name.strip()} received"] = int(words[_NET_RECEIVED])
                counters[f"{name.strip()} sent"] = int(words[_NET_SENT])
        self._network.update(counters, self._clock())
