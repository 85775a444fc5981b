"""AMD's compute driver: what a GPU is made of, and which process has how much of its memory."""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import Unreadable, non_negative, optional
from obt_agent.hardware.snapshot.root import Root

NODES = "/sys/class/kfd/kfd/topology/nodes"
_PROCESSES = "/sys/class/kfd/kfd/proc"
LANES_PER_UNIT = 64
"""Stream processors of one compute unit, in all of AMD's designs that the compute driver knows."""


class Node:
    """The compute driver's node of one GPU. Raises Unreadable where a property is missing."""

    def __init__(self, root: Root, folder: str) -> None:
        self._root = root
        self._folder = folder
        self._properties = _properties(root.text(f"{folder}/properties"))

    def gfx_target(self) -> str:
        """The instruction set's name ("gfx1100"): major, minor and stepping, the last two in hexadecimal."""
        version = self._value("gfx_target_version")
        if version == 0:
            raise Unreadable("not_reported")
        return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"

    def shader_cores(self) -> int:
        """Compute units times 64."""
        units, rest = divmod(self._value("simd_count"), self._value("simd_per_cu") or 1)
        if units == 0 or rest:
            raise Unreadable("malformed")
        return units * LANES_PER_UNIT

    def bus_width_bits(self) -> int:
        """Width of the memory bus."""
        bank = _properties(self._root.text(f"{self._folder}/mem_banks/0/properties"))
        width = bank.get("width", 0)
        if width <= 0:
            raise Unreadable("not_reported")
        return width

    def computes(self) -> bool:
        """Whether it is a GPU: it has vector units."""
        return self._properties.get("simd_count", 0) > 0

    def has_cpu_cores(self) -> bool:
        """Whether it is part of a CPU's node."""
        return self._value("cpu_cores_count") > 0

    def process_bytes(self, pid: int) -> int:
        """Bytes of the GPU's own memory that a process has. Raises OSError where it has none."""
        gpu = self._root.text(f"{self._folder}/gpu_id")
        return non_negative(self._root.integer(f"{_PROCESSES}/{pid}/vram_{gpu}"))

    def at(self, address: str) -> bool:
        """Whether this is the GPU at a PCI address."""
        domain, bus, rest = address.split(":")
        device, function = rest.split(".")
        place = int(bus, 16) << 8 | int(device, 16) << 3 | int(function, 16)
        return self._properties.get("location_id") == place and self._properties.get("domain", 0) == int(
            domain, 16
        )

    def _value(self, name: str) -> int:
        if name not in self._properties:
            raise Unreadable("not_reported")
        return self._properties[name]


def node_of(root: Root, address: str) -> Node | None:
    """The node of the GPU at a PCI address; None where the compute driver does not run it. Never raises."""
    for name in optional(partial(root.names, NODES)) or []:
        node = optional(partial(Node, root, f"{NODES}/{name}"))
        if node is not None and node.computes() and node.at(address):
            return node
    return None


def _properties(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004 - a pair
