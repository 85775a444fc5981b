"""Replay snapshots.

``python -m tests.hardware.replay [NAME ...]`` writes anew what is expected of those, or of all.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
from obt_agent.hardware.gpu.registry import gpu_providers
from obt_agent.hardware.provider import GpuProvider
from obt_agent.hardware.read_once import MachineReading, OneReading
from obt_agent.hardware.snapshot.root import SnapshotRoot
from tests.hardware.nvml.fake import FakeDriver, build

SNAPSHOTS = Path(__file__).parent / "snapshots"
NAMES = sorted(folder.name for folder in SNAPSHOTS.iterdir())


def replay(folder: Path, driver: FakeDriver) -> tuple[MachineReading, SnapshotRoot]:
    """Read a snapshot once; NVIDIA's library says what the snapshot's ``nvml.txt`` has, or is not there."""
    root = SnapshotRoot(folder)
    providers: tuple[GpuProvider, ...] = gpu_providers(root)
    if (folder / "nvml.txt").exists():
        shutil.copy(folder / "nvml.txt", driver.library.with_name("nvml.txt"))
        nvidia = NvidiaProvider(root, driver.nvml, driver.prober())
        providers = nvidia, *(provider for provider in providers if provider.name != nvidia.name)
    return OneReading(root, providers).read(), root


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        driver = FakeDriver(build(Path(place)))
        for name in names or NAMES:
            reading, _ = replay(SNAPSHOTS / name, driver)
            document = msgspec.json.format(msgspec.json.encode(reading), indent=2)
            (SNAPSHOTS / name / "expected.json").write_bytes(document + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
