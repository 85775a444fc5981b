"""A process within so much memory: by a memory cgroup where this machine lends one, else by RLIMIT_DATA."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@dataclass
class LimitedMemory:
    """How a process is held, and the most that it ever had resident."""

    pid: int
    limit_bytes: int
    by: str
    peak_bytes: int = 0

    def look(self) -> int:
        """Read the peak; what was read last stays when the process has ended."""
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            self.peak_bytes = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
        return self.peak_bytes


@contextlib.contextmanager
def limited_memory(pid: int, limit_bytes: int) -> Iterator[LimitedMemory]:
    """Hold a process to a limit while the context lasts; a cgroup is removed when the process has ended."""
    group = _cgroup(pid, limit_bytes)
    if group is None:
        # Address space that is written to, resident or not: harsher than a cgroup, which counts pages.
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    held = LimitedMemory(pid, limit_bytes, "RLIMIT_DATA" if group is None else "memory cgroup")
    try:
        yield held
    finally:
        held.look()
        if group is not None:
            _empty(group)


def _cgroup(pid: int, limit_bytes: int) -> Path | None:
    for parent, file in ((_V1, "memory.limit_in_bytes"), (_V2, "memory.max")):
        group = parent / f"obt-hostile-{pid}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            # A file that is not there is none of the kernel's: this is no cgroup, or has no such controller.
            with (group / file).open("r+") as limit:
                limit.write(str(limit_bytes))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            group.rmdir()
            continue
        return group
    return None


def _empty(group: Path) -> None:
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()
