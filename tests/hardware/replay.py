"""Write what is expected of snapshots.

``python -m tests.hardware.replay [NAME ...]`` writes anew what is expected of those, or of all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from obt_agent.hardware.gpu.registry import VENDORS
from obt_agent.hardware.read_once import MachineReading
from obt_agent.hardware.snapshot.replay import replay

SNAPSHOTS = Path(__file__).parent / "snapshots"
NAMES = sorted(folder.name for folder in SNAPSHOTS.iterdir())


def expected_of(reading: MachineReading) -> MachineReading:
    """The reading without the vendors whose GPUs the machine lacks: a new vendor changes no file here."""
    vendors = {vendor.name for vendor in VENDORS}
    providers = (p for p in reading.inventory.providers if p.status != "absent" or p.name not in vendors)
    inventory = msgspec.structs.replace(reading.inventory, providers=tuple(providers))
    return msgspec.structs.replace(reading, inventory=inventory)


def main(names: list[str]) -> None:
    for name in names or NAMES:
        reading, _ = replay(SNAPSHOTS / name)
        document = msgspec.json.format(msgspec.json.encode(expected_of(reading)), indent=2)
        (SNAPSHOTS / name / "expected.json").write_bytes(document + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
