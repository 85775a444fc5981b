"""AMD's compute driver: what a GPU is made of, and which process has how much of its memory.

An accelerator that is divided (MI300X in DPX, QPX, CPX) has a node for each partition, all at the address of
the one device: their number stands in bits 28 to 31 of ``location_id``.
"""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, non_negative, optional
from obt_agent.hardware.snapshot.root import Root

NODES = "/sys/class/kfd/kfd/topology/nodes"
_PROCESSES = "/sys/class/kfd/kfd/proc"
# From this bit of ``location_id`` on stands the partition's number; below it the place on the bus.
_PARTITION_BIT = 28
LANES_PER_UNIT = 64
"""Stream processors of one compute unit, in all of AMD's designs that the compute driver knows."""


class Node:
    """One of the compute driver's nodes. Raises Unreadable where a property is missing."""

    def __init__(self, root: Root, folder: str) -> None:
        self._root = root
        self._folder = folder
        # They do not change while the driver is loaded.
        self._properties = _properties(root.text(f"{folder}/properties"))

    def value(self, name: str) -> int:
        """Return a property."""
        if name not in self._properties:
            raise Unreadable("not_reported")
        return self._properties[name]

    def units(self) -> int:
        """Return the number of compute units."""
        units, rest = divmod(self.value("simd_count"), self.value("simd_per_cu") or 1)
        if units == 0 or rest:
            raise Unreadable("malformed")
        return units

    def bus_width_bits(self) -> int:
        """Return the width of the memory bus."""
        bank = _properties(self._root.text(f"{self._folder}/mem_banks/0/properties"))
        width = bank.get("width", 0)
        if width <= 0:
            raise Unreadable("not_reported")
        return width

    def process_bytes(self, pid: int) -> int:
        """Return the bytes of memory that a process has here.

        Raise OSError where it has none; ValueError or Unreadable where the node does not tell its number.
        """
        gpu = optional(partial(self._root.integer, f"{self._folder}/gpu_id"))
        if not gpu:  # without it the process's file is not found, which would read as no memory at all
            raise Unreadable("not_reported")
        return non_negative(self._root.integer(f"{_PROCESSES}/{pid}/vram_{gpu}"))

    def is_gpu_at(self, address: str) -> bool:
        """Return whether this is the GPU at a PCI address, or a partition of it."""
        domain, bus, rest = address.split(":")
        device, function = rest.split(".")
        place = int(bus, 16) << 8 | int(device, 16) << 3 | int(function, 16)
        # CPUs have nodes too, without vector units.
        return (
            self._properties.get("simd_count", 0) > 0
            and self._properties.get("location_id", -1) & (1 << _PARTITION_BIT) - 1 == place
            and self._properties.get("domain", 0) == int(domain, 16)
        )

    @property
    def partition(self) -> int:
        """Which part of the GPU it is, from 0."""
        return self._properties.get("location_id", 0) >> _PARTITION_BIT


class ComputeGpu:
    """One GPU: all of its nodes, at least one. Raises Unreadable where a property is missing."""

    def __init__(self, nodes: list[Node]) -> None:
        # One for each partition; whole GPUs have one. In the order of the driver, not of the partitions.
        self._nodes = nodes

    @property
    def partitions(self) -> int:
        """Into how many parts it is divided."""
        return len(self._nodes)

    def gfx_target(self) -> str:
        """Return the instruction set ("gfx1100"): major, minor and stepping, the last two in hexadecimal."""
        version = self._nodes[0].value("gfx_target_version")
        if version == 0:
            raise Unreadable("not_reported")
        return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"

    def shader_cores(self) -> int:
        """Return the compute units of all partitions, times 64."""
        # The sum is only right when no partition between them is missing, as in a container that has one.
        if sorted(node.partition for node in self._nodes) != list(range(len(self._nodes))):
            raise Unreadable("not_reported: not every partition of the GPU is visible")
        return sum(node.units() for node in self._nodes) * LANES_PER_UNIT

    def bus_width_bits(self) -> int:
        """Return the width of the memory bus, which every partition gives for the whole."""
        return self._nodes[0].bus_width_bits()

    def has_cpu_cores(self) -> bool:
        """Return whether it is part of a CPU's node."""
        return any(node.value("cpu_cores_count") > 0 for node in self._nodes)

    def process_bytes(self, pid: int) -> int:
        """Return the bytes of the GPU's own memory that a process has, on whichever partition.

        Raises OSError where it has none, Unreadable where a partition cannot be asked.
        """
        fields = FieldReader()
        read = [
            fields.read(str(number), partial(node.process_bytes, pid))
            for number, node in enumerate(self._nodes)
        ]
        known = [used for used in read if used is not None]
        # A process that does not use a partition has no file there; any other reason leaves the sum unknown.
        unknown = [reason for reason in fields.reasons.values() if reason != "not_present"]
        if unknown or not known:
            raise Unreadable(unknown[0] if unknown else "not_present")
        return sum(known)


def gpu_at(root: Root, address: str) -> ComputeGpu | None:
    """Return the GPU at a PCI address; None where the compute driver does not run it. Never raises."""
    nodes = [optional(partial(Node, root, folder)) for folder in root.below(NODES)]
    found = [node for node in nodes if node is not None and node.is_gpu_at(address)]
    return ComputeGpu(found) if found else None


def _properties(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004 - a pair
