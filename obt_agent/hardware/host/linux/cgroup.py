"""Control groups of a process, version 1 and 2: what limits it, and what it can still get.

Every ancestor limits too, so each is read, from the process's own group up to the root of the mount. Page
cache counts as a group's use but is given back on demand, so what is available is limit - (use - inactive
file pages - active file pages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TypeVar

from obt_agent.hardware.field_reader import FieldReader, Unreadable, optional
from obt_agent.hardware.host.linux import cpu_info
from obt_agent.hardware.host.linux.kernel_text import key_values
from obt_agent.hardware.host.linux.mounts import Mount, mounts
from obt_agent.hardware.inventory import CgroupLimits, ProviderState
from obt_agent.hardware.provider import state_of
from obt_agent.hardware.snapshot.root import FileCache, Root

T = TypeVar("T")

_FIELDS = ("memory_bytes", "memory_high_bytes", "cpus", "cpuset", "cgroup_version")
_CONTROLLERS = ("memory", "cpu", "cpuset")
_ELSEWHERE = "not_present: the process's control group is not mounted where the agent sees it"
# Version 1 writes "no limit" as the largest multiple of the page size below 2^63.
_NO_LIMIT_V1 = 1 << 60


@dataclass(frozen=True, slots=True)
class _Files:
    """What one version calls its files."""

    limit: str
    usage: str
    file_pages: tuple[str, ...]


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))


class Groups:
    """The control groups of one process, as they are now; made anew when the process changes.

    Raises:
        OSError: the process is gone or hidden.
        Unreadable: no mounted hierarchy shows its groups ("not_present").
    """

    def __init__(self, root: Root, pid: int) -> None:
        self._root = root
        self._hot = FileCache(root)
        places = _parse_groups(root.text(f"/proc/{pid}/cgroup"))
        mounted = [mount for mount in mounts(root) if mount.kind in ("cgroup", "cgroup2")]
        unified = [mount for mount in mounted if mount.kind == "cgroup2"]
        self._pid = pid
        # By controller: the folder of its group and of every ancestor, which of the two versions has it, and
        # whether the group lies where this process cannot see it.
        self._folders: dict[str, list[str]] = {}
        self._version: dict[str, int] = {}
        self._hidden: set[str] = set()
        for controller in _CONTROLLERS:
            own = [m for m in mounted if m.kind == "cgroup" and controller in m.options]
            # With both versions mounted (hybrid) each controller belongs to one of them.
            version, candidates = (1, own) if controller in places and own else (2, unified)
            place = places.get(controller if version == 1 else "")
            self._version[controller] = version
            self._folders[controller] = list(_ancestors(candidates, place)) if place is not None else []
            if self._folders[controller] and not root.exists(self._folders[controller][0]):
                self._hidden.add(controller)
        if all(controller in self._hidden or not self._folders[controller] for controller in _CONTROLLERS):
            raise Unreadable(_ELSEWHERE if self._hidden else "not_present")

    @property
    def version(self) -> int:
        """1 or 2: of the memory controller."""
        return self._version["memory"]

    def limits(self) -> CgroupLimits:
        """All limits. Never raises."""
        fields = FieldReader()
        return CgroupLimits(
            memory_bytes=fields.read("memory_bytes", self._memory_limit),
            memory_high_bytes=fields.read("memory_high_bytes", self._memory_high),
            cpus=fields.read("cpus", self._cpus),
            cpuset=fields.read("cpuset", self._cpuset),
            cgroup_version=self.version,
            unavailable=fields.reasons,
        )

    def available_bytes(self) -> int | None:
        """What the process can still get within its groups; None when nothing limits it.

        Raises OSError, ValueError.
        """
        # Each ancestor counts all groups below it: the one with the least left decides, not the least limit.
        left = [self._left(folder, limit) for folder, limit in self._limited()]
        return min(left) if left else None

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()

    @property
    def _memory_files(self) -> _Files:
        return _V1 if self.version == 1 else _V2

    def _seen(self, controller: str) -> list[str]:
        """The group's folder and its ancestors'. None at all means that nothing limits it.

        Raises Unreadable when they are out of sight, which does not mean that.
        """
        if controller in self._hidden:
            raise Unreadable(_ELSEWHERE)
        return self._folders[controller]

    def _limited(self) -> Iterator[tuple[str, int]]:
        for folder in self._seen("memory"):
            limit = _present(partial(self._hot.text, f"{folder}/{self._memory_files.limit}"))
            if limit is not None and limit != "max" and _amount(limit) < _NO_LIMIT_V1:
                yield folder, _amount(limit)

    def _memory_limit(self) -> int | None:
        return min((limit for _, limit in self._limited()), default=None)

    def _memory_high(self) -> int | None:
        """Version 2 alone has it."""
        if self.version == 1:
            return None
        files = [partial(self._hot.text, f"{folder}/memory.high") for folder in self._seen("memory")]
        found = [text for file in files if (text := _present(file)) is not None and text != "max"]
        return min(map(_amount, found), default=None)

    def _left(self, folder: str, limit: int) -> int:
        names = self._memory_files
        usage = self._hot.integer(f"{folder}/{names.usage}")
        pairs = (line.partition(" ") for line in self._hot.text(f"{folder}/memory.stat").splitlines())
        cache = sum(int(value) for name, _, value in pairs if name in names.file_pages)
        return max(0, min(limit, limit - (usage - cache)))

    def _cpus(self) -> float | None:
        read = self._quota_v1 if self._version["cpu"] == 1 else self._quota_v2
        return min((cpus for folder in self._seen("cpu") if (cpus := read(folder)) is not None), default=None)

    def _quota_v2(self, folder: str) -> float | None:
        text = _present(partial(self._hot.text, f"{folder}/cpu.max"))
        quota, _, period = (text or "max").partition(" ")
        # A file with a quota alone has no period to divide by: that is refused there.
        return None if quota == "max" else _amount(quota) / _period(period)

    def _quota_v1(self, folder: str) -> float | None:
        quota = _present(partial(self._hot.integer, f"{folder}/cpu.cfs_quota_us"))
        if quota is None or quota < 0:
            return None
        return quota / _period(self._hot.text(f"{folder}/cpu.cfs_period_us"))

    def _cpuset(self) -> str | None:
        """The CPUs that the process may use where they are fewer than the machine's.

        Its affinity, which its group's CPUs bound, and taskset and systemd's CPUAffinity= narrow; where that
        is hidden, its group's.
        """
        cpus = optional(self._affinity) or self._cpus_of_group()
        online = optional(partial(cpu_info.online, self._root))
        if cpus is None or online is None:
            return cpus
        allowed = set(cpu_info.expand_list(cpus))
        if online <= allowed or (len(allowed) == len(online) and not cpu_info.is_of_this_scope(self._root)):
            return None
        if not cpu_info.is_of_this_scope(self._root):
            raise Unreadable("inconsistent: the container sees the host's CPUs under other numbers")
        return cpus

    def _affinity(self) -> str:
        return key_values(self._root.text(f"/proc/{self._pid}/status")).get("Cpus_allowed_list", "")

    def _cpus_of_group(self) -> str | None:
        name = "cpuset.effective_cpus" if self._version["cpuset"] == 1 else "cpuset.cpus.effective"
        files = (partial(self._hot.text, f"{folder}/{name}") for folder in self._seen("cpuset"))
        return next((cpus for file in files if (cpus := _present(file))), None)


class LimitsProvider:
    """The limits of Ollama's process; the agent's own groups do not matter."""

    name = "limits"

    def __init__(self, root: Root) -> None:
        self._root = root
        self._pid: int | None = None
        # None while there is no process, or while its groups cannot be read.
        self._groups: Groups | None = None
        # Why there are no groups, and what that reason is when there is no process at all.
        self._reason = self._nothing = "not_running"

    def follow(self, pid: int | None, reason: str | None = None) -> None:
        """Read this process's groups from now on (None: there is no process; ``reason`` may say why)."""
        self._pid = pid
        self._nothing = reason or self._nothing
        self.close()
        fields = FieldReader()
        self._groups = None if pid is None else fields.read("groups", lambda: Groups(self._root, pid))
        self._reason = fields.reasons.get("groups", self._nothing)

    def probe(self) -> ProviderState:
        """Whether the groups of Ollama's process can be read; that nothing runs is no fault."""
        reason = None if self._groups is not None or self._pid is None else self._reason
        return state_of(self.name, reason, verified=True)

    def inventory(self) -> CgroupLimits:
        """The limits now."""
        if self._groups is None:
            return CgroupLimits(unavailable=dict.fromkeys(_FIELDS, self._reason))
        return self._groups.limits()

    def available_bytes(self) -> int | None:
        """What Ollama can still get within its groups; None when nothing limits it.

        Raises:
            Unreadable: there is no process to follow.
            OSError, ValueError: its groups cannot be read.
        """
        if self._groups is None:
            raise Unreadable(self._reason)
        return self._groups.available_bytes()

    def close(self) -> None:
        """Let go of the files."""
        if self._groups is not None:
            self._groups.close()
            self._groups = None


def _amount(text: str) -> int:
    amount = int(text)
    if amount < 0:
        raise ValueError(text)
    return amount


def _period(text: str) -> int:
    period = int(text)
    if period <= 0:
        raise ValueError(text)
    return period


def _present(source: Callable[[], T]) -> T | None:
    """What a file says; None where this group has none (the root group, or the controller is off)."""
    try:
        return source()
    except FileNotFoundError:
        return None


def _parse_groups(text: str) -> dict[str, str]:
    """A process's place by controller; version 2's under the empty name."""
    places = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        for controller in controllers.split(","):
            places[controller] = place
    return places


def _ancestors(mounted: list[Mount], place: str) -> Iterator[str]:
    """The folders from the group up to the mount's own root.

    A container sees its part of the hierarchy mounted: ``root`` is then taken off the front of the place. A
    place that begins with ".." lies beside that part, and leads to no folder.
    """
    for mount in mounted:
        inside = place if mount.root == "/" else place.removeprefix(mount.root) or "/"
        group = PurePosixPath("/", *filter(None, inside.split("/")))
        for folder in (group, *group.parents):
            yield mount.point + str(folder).rstrip("/")
        return
