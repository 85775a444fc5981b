"""Read a snapshot in place of a machine."""

from __future__ import annotations

from pathlib import Path

from obt_agent.hardware.gpu.registry import gpu_providers
from obt_agent.hardware.read_once import MachineReading, read_once
from obt_agent.hardware.snapshot.root import SnapshotRoot


def replay(folder: Path) -> tuple[MachineReading, SnapshotRoot]:
    """Return what the machine was and did, and the snapshot that it was read from.

    Rates are null: they need two readings, and a snapshot holds one.

    Raises:
        OSError, msgspec.DecodeError: the folder holds no snapshot.
    """
    root = SnapshotRoot(folder)
    return read_once(root, gpu_providers(root)), root
