"""Processes from /proc. psutil opens several files of each process to tell its children; this opens one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from obt_agent.hardware.field_reader import optional
from obt_agent.hardware.host.linux.file_readings import parent_of
from obt_agent.hardware.snapshot.root import Root


def environment(root: Root, pid: int | None) -> dict[str, str]:
    """Return what a process was started with. Raise OSError; its own user and root alone may read it."""
    entries = root.text(f"/proc/{pid}/environ").split("\0")
    return dict(entry.partition("=")[::2] for entry in entries)


class LinuxProcessTable:
    """``ProcessTable`` of Linux."""

    def __init__(self, root: Root) -> None:
        self._root = root
        # Parents by PID, kept only on kernels without lists of children: a process's parent changes only
        # when that ends, so each process is read once and not every time.
        self._parents: dict[int, int | None] = {}

    def pids(self) -> frozenset[int]:
        """Return all processes."""
        return frozenset(int(name) for name in self._root.names("/proc") if name.isdigit())

    def name(self, pid: int) -> str:
        """Return the program's name."""
        return self._root.text(f"/proc/{pid}/comm", 64)

    def arguments(self, pid: int) -> list[str]:
        """Return the command line after the program."""
        return self._root.text(f"/proc/{pid}/cmdline", 4096).split("\0")[1:]

    def environment(self, pid: int) -> Mapping[str, str]:
        """Return the environment; its own user and root may read it."""
        return environment(self._root, pid)

    def children(self, pids: frozenset[int]) -> frozenset[int]:
        """Return children by the kernel's own lists, or by every process's parent where it has none."""
        found: set[int] = set()
        for pid in pids:
            folder = f"/proc/{pid}/task"
            for thread in optional(partial(self._root.names, folder)) or []:
                try:
                    text = self._root.text(f"{folder}/{thread}/children")
                except FileNotFoundError:  # built without CONFIG_PROC_CHILDREN, or the thread has ended
                    if self._root.exists(f"{folder}/{thread}"):
                        return self._children_by_parent(pids)
                    continue
                except OSError:
                    continue
                found.update(int(word) for word in text.split() if word.isdigit())
        return frozenset(found)

    def _children_by_parent(self, parents: frozenset[int]) -> frozenset[int]:
        pids = optional(self.pids) or frozenset()
        self._parents = {
            pid: self._parents[pid] if pid in self._parents else self._parent(pid) for pid in pids
        }
        return frozenset(pid for pid, parent in self._parents.items() if parent in parents)

    def _parent(self, pid: int) -> int | None:
        return optional(lambda: parent_of(self._root.text(f"/proc/{pid}/stat")))
