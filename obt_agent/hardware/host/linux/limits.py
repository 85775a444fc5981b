"""What the control groups of Ollama's process allow it; the agent's own groups do not matter."""

from __future__ import annotations

from obt_agent.hardware.field_reader import FieldReader, Unreadable
from obt_agent.hardware.host.linux.cgroup import Groups
from obt_agent.hardware.inventory import CgroupLimits, ProviderState
from obt_agent.hardware.provider import state_of
from obt_agent.hardware.snapshot.root import Root

_FIELDS = ("memory_bytes", "memory_high_bytes", "cpus", "cpuset", "cgroup_version")


class LimitsProvider:
    """Limits of the process that it was told to follow."""

    name = "limits"

    def __init__(self, root: Root) -> None:
        self._root = root
        self._pid: int | None = None
        self._groups: Groups | None = None
        self._reason = self._nothing = "not_running"

    def follow(self, pid: int | None, reason: str | None = None) -> None:
        """Read this process's groups from now on (None: there is no process; ``reason`` may say why)."""
        self._pid = pid
        self._nothing = reason or self._nothing
        self.close()
        gaps = FieldReader()
        self._groups = None if pid is None else gaps.read("groups", lambda: Groups(self._root, pid))
        self._reason = gaps.reasons.get("groups", self._nothing)

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
