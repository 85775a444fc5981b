"""Kernel modules: whether one is loaded, and its version."""

from __future__ import annotations

from obt_agent.hardware.field_reader import bounded
from obt_agent.hardware.snapshot.root import Root


def version_file(module: str) -> str:
    """Return where a module's version stands; modules of the kernel's own tree have none."""
    return f"/sys/module/{module}/version"


def version(root: Root, module: str) -> str:
    """Return a module's version. Raises OSError, Unreadable."""
    return bounded(root.text(version_file(module)))


def driver_answers(root: Root, module: str) -> bool:
    """Return whether a driver that keeps a folder in procfs is loaded."""
    return root.exists(f"/proc/driver/{module}/version")
