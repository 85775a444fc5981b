"""System memory and swap."""

from __future__ import annotations

import re
from functools import partial
from typing import TypeVar

from obt_agent.hardware.field_reader import FieldReader, Unreadable
from obt_agent.hardware.host.linux import dmi
from obt_agent.hardware.inventory import MemoryInfo, ProviderState
from obt_agent.hardware.provider import CostGroup, state_of
from obt_agent.hardware.samples import MemorySample
from obt_agent.hardware.snapshot.root import FileCache, Root

T = TypeVar("T")

_MEMINFO = "/proc/meminfo"
_KIB = 1 << 10
_LINE = re.compile(r"^(Mem(?:Total|Available)|Swap(?:Total|Free)):\s+([0-9]{1,18}) kB$", re.MULTILINE)


class MemoryProvider:
    """Linux's view of the system's memory."""

    name = "memory"

    def __init__(self, root: Root) -> None:
        self._root = root
        self._hot = FileCache(root)

    def probe(self) -> ProviderState:
        """Whether the kernel tells."""
        gaps = FieldReader()
        gaps.read("total_bytes", self._read)
        return state_of(self.name, gaps.reasons.get("total_bytes"), verified=True)

    def inventory(self) -> MemoryInfo:
        """Sizes, and the modules where firmware's table is readable."""
        gaps = FieldReader()
        info = gaps.read("total_bytes", self._read) or {}
        modules = gaps.read("modules", partial(dmi.modules, self._root)) or ()
        missing = gaps.reasons.get("modules", "not_reported")
        return MemoryInfo(
            total_bytes=gaps.read("total_bytes", partial(_bytes, info, "MemTotal")),
            swap_total_bytes=gaps.read("swap_total_bytes", partial(_bytes, info, "SwapTotal")),
            type=gaps.read("type", lambda: _agreed([m.type for m in modules], missing)),
            speed_mt_s=gaps.read("speed_mt_s", lambda: _agreed([m.speed_mt_s for m in modules], missing)),
            modules=modules,
            unavailable=gaps.reasons,
        )

    def sample(self, group: CostGroup) -> MemorySample:  # noqa: ARG002 -- one cheap file
        """What is in use now; ``cgroup_available_bytes`` is the limits provider's to add."""
        gaps = FieldReader()
        info = gaps.read("used_bytes", self._read) or {}
        return MemorySample(
            used_bytes=gaps.read("used_bytes", partial(_less, info, "MemTotal", "MemAvailable")),
            available_bytes=gaps.read("available_bytes", partial(_bytes, info, "MemAvailable")),
            swap_used_bytes=gaps.read("swap_used_bytes", partial(_less, info, "SwapTotal", "SwapFree")),
            unavailable=gaps.reasons,
        )

    def close(self) -> None:
        """Let go of the file."""
        self._hot.close()

    def _read(self) -> dict[str, int]:
        return parse_meminfo(self._hot.text(_MEMINFO))


def system_bytes(root: Root) -> int:
    """Return the size of the system's memory, which integrated GPUs share. Raises OSError, Unreadable."""
    return _bytes(parse_meminfo(root.text(_MEMINFO)), "MemTotal")


def parse_meminfo(text: str) -> dict[str, int]:
    """KiB by name, of the four lines that are used; those of another shape are left out."""
    return {name: int(number) for name, number in _LINE.findall(text)}


def _bytes(info: dict[str, int], name: str) -> int:
    if name not in info:
        raise Unreadable("not_reported")
    return info[name] * _KIB


def _less(info: dict[str, int], total: str, free: str) -> int:
    used = _bytes(info, total) - _bytes(info, free)
    if used < 0:
        raise Unreadable("inconsistent")
    return used


def _agreed(values: list[T | None], reason: str) -> T:
    """What all modules say alike; the reason is why there are none."""
    known = set(values)
    if not known:
        raise Unreadable(reason)
    value = known.pop()
    if known or value is None:
        raise Unreadable("not_reported")
    return value
