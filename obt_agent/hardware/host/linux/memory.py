"""What Linux tells of memory beside its size and use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from obt_agent.hardware.field_reader import FieldReader, Unreadable
from obt_agent.hardware.host.linux.file_readings import LinuxFileReadings
from obt_agent.hardware.host.readings import HostReadings
from obt_agent.hardware.inventory import MemoryInfo, MemoryModule
from obt_agent.hardware.snapshot.root import FileCache, Root

T = TypeVar("T")

_ARC = "/proc/spl/kstat/zfs/arcstats"


def memory_info(readings: HostReadings, modules: Callable[[], tuple[MemoryModule, ...]]) -> MemoryInfo:
    """Return sizes, and the modules where firmware's table is readable. Never raises."""
    reasons = FieldReader()
    found = reasons.read("modules", modules) or ()
    missing = reasons.reasons.get("modules", "not_reported")
    return MemoryInfo(
        total_bytes=reasons.read("total_bytes", lambda: readings.memory().total_bytes),
        swap_total_bytes=reasons.read("swap_total_bytes", lambda: readings.swap().total_bytes),
        type=reasons.read("type", lambda: _agreed([module.type for module in found], missing)),
        speed_mt_s=reasons.read("speed_mt_s", lambda: _agreed([m.speed_mt_s for m in found], missing)),
        modules=found,
        unavailable=reasons.reasons,
    )


def has_arc(root: Root) -> bool:
    """Whether ZFS is loaded."""
    return root.exists(_ARC)


def arc_reclaimable_bytes(files: FileCache) -> int:
    """Return how much of its cache ZFS gives back on demand: all but the least size that it keeps.

    The kernel counts the ARC as used, unlike the page cache of other file systems. Raise OSError and
    ValueError.
    """
    lines = (line.split() for line in files.text(_ARC).splitlines())
    values = {words[0]: int(words[2]) for words in lines if len(words) == 3 and words[2].isdigit()}  # noqa: PLR2004 -- name, type and data
    if "size" not in values or "c_min" not in values:
        raise ValueError(_ARC)
    return max(0, values["size"] - values["c_min"])


def system_bytes(root: Root) -> int:
    """Return the size of the system's memory, which some GPUs share. Raise as reading does."""
    return LinuxFileReadings(root).memory().total_bytes


def _agreed(values: list[T | None], reason: str) -> T:
    """What all modules say alike; the reason is why there are none."""
    known = set(values)
    if not known:
        raise Unreadable(reason)
    value = known.pop()
    if known or value is None:
        raise Unreadable("not_reported")
    return value
