"""Mounted file systems, from /proc/PID/mountinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass

from obt_agent.hardware.snapshot.root import Root

# proc(5): six fields, optional ones, a dash, then the type of the file system, its source and options.
_FIELDS_BEFORE_OPTIONAL = 6
_FIELDS_AFTER_DASH = 3


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: where (``point``), which part of the file system (``root``), and of what (``source``)."""

    device: str
    root: str
    point: str
    kind: str
    source: str
    options: tuple[str, ...]

    def holds(self, path: str) -> bool:
        """Whether the path lies under this mount point."""
        return self.point in ("/", path) or path.startswith(self.point + "/")


def mounts(root: Root, pid: int | None = None) -> list[Mount]:
    """All mounts that a process sees (this one when no PID is given). Raises OSError."""
    lines = root.text(f"/proc/{'self' if pid is None else pid}/mountinfo").splitlines()
    return [mount for line in lines if (mount := _parse(line)) is not None]


def mount_of(all_mounts: list[Mount], path: str) -> Mount | None:
    """The mount that a path lies on: the one mounted last among those with the longest matching point."""
    best = None
    for mount in all_mounts:
        if mount.holds(path) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _parse(line: str) -> Mount | None:
    words = line.split(" ")
    dash = words.index("-", _FIELDS_BEFORE_OPTIONAL) if "-" in words[_FIELDS_BEFORE_OPTIONAL:] else -1
    if dash < 0 or len(words) < dash + 1 + _FIELDS_AFTER_DASH:
        return None
    kind, source, options = words[dash + 1 : dash + 1 + _FIELDS_AFTER_DASH]
    return Mount(
        words[2], _plain(words[3]), _plain(words[4]), kind, _plain(source), tuple(options.split(","))
    )


def _plain(word: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)
