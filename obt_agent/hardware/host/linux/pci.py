"""Display devices on the PCI bus, from files of the kernel that no reading wakes a device for."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from obt_agent.hardware.field_reader import Unreadable, bounded, optional
from obt_agent.hardware.snapshot.root import Root

_DEVICES = "/sys/bus/pci/devices"
_DISPLAY, _ACCELERATOR = "0x03", "0x12"
_BRIDGE = "0x0604"
_DATABASES = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids")

# PCI Express generations by GT/s.
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}


@dataclass(frozen=True, slots=True)
class PciGpu:
    """A display device."""

    # As the kernel writes it: 0000:01:00.0.
    address: str
    # Its folder in /sys.
    path: str
    # The kernel's driver that runs it; None where none is bound to it.
    driver: str | None
    # Whether the kernel suspends it while nobody uses it (power/control is "auto").
    may_sleep: bool

    @property
    def status_file(self) -> str:
        """Where the kernel says whether it sleeps; reading it wakes nothing."""
        return f"{self.path}/power/runtime_status"


def gpus(root: Root, vendor: str, drivers: Collection[str]) -> tuple[PciGpu, ...]:
    """Return the display devices of a vendor ("0x10de"), whose GPUs these drivers run.

    Of each, only identity and power state are read. Never raises.
    """
    found: list[PciGpu] = []
    for path in root.below(_DEVICES):
        if root.known_text(f"{path}/vendor") != vendor:
            continue
        kind = root.known_text(f"{path}/class")
        if not kind.startswith((_DISPLAY, _ACCELERATOR)):
            continue
        driver = (optional(partial(root.link, f"{path}/driver")) or "").rpartition("/")[2]
        # AMD's Instinct MI300 and later are GPUs in all but their PCI class; NPUs of that class are not.
        if kind.startswith(_ACCELERATOR) and driver not in drivers:
            continue
        if _is_part_of_another(root, path, driver, found):
            continue
        may_sleep = root.known_text(f"{path}/power/control") == "auto"
        found.append(PciGpu(path.rpartition("/")[2], path, driver or None, may_sleep))
    return tuple(found)


def _is_part_of_another(root: Root, path: str, driver: str, found: list[PciGpu]) -> bool:
    """Whether a function is no device of its own, but another face of one that the bus has already.

    Virtual functions (SR-IOV) are parts of the physical one that they name. A second function of a slot with
    no driver is the second display output of old graphics, which the driver runs through the first.
    """
    if optional(partial(root.link, f"{path}/physfn")) is not None:
        return True
    slot = path.rpartition(".")[0]
    return not driver and any(gpu.driver and gpu.path.rpartition(".")[0] == slot for gpu in found)


def asleep(root: Root, gpu: PciGpu) -> bool:
    """Whether the device is suspended, or on its way. A kernel that does not say has it awake."""
    return root.known_text(gpu.status_file) in ("suspended", "suspending")


def normalised(address: str) -> str:
    """A PCI address as the kernel writes it: NVIDIA's library pads the domain to eight digits, in capitals.

    Raises:
        ValueError: it is no PCI address.
    """
    domain, bus, device = address.strip().lower().split(":")
    return f"{int(domain, 16):04x}:{int(bus, 16):02x}:{device}"


def link_folder(root: Root, path: str) -> str:
    """The device whose link leads to the slot.

    Graphics cards of AMD and Intel carry a switch of their own, and the GPU's own link is the one inside the
    card. The card's upstream port is the highest bridge above the GPU that has the card's vendor and is no
    root port.
    """
    vendor = root.text(f"{path}/vendor")
    place = root.resolve(path)
    while True:
        above = place.rpartition("/")[0]
        is_ours = root.known_text(f"{above}/vendor") == vendor
        is_bridge = root.known_text(f"{above}/class").startswith(_BRIDGE)
        is_root_port = PurePosixPath(above).parent.name.startswith("pci")
        if not is_ours or not is_bridge or is_root_port:
            return place
        place = above


def generation(text: str) -> int:
    """The generation of a link's speed as the kernel writes it ("16.0 GT/s PCIe").

    Raises Unreadable, ValueError.
    """
    words = text.split()
    # The kernel writes "Unknown" where the device does not say; so do devices that fell off the bus.
    if not words or words[0] == "Unknown":
        raise Unreadable("not_reported")
    speed = float(words[0])
    if speed not in _GENERATIONS:
        raise Unreadable("not_reported")
    return _GENERATIONS[speed]


def width(text: str) -> int:
    """The lanes of a link. Raises ValueError; Unreadable for 0 and 255, which mean that there is none."""
    lanes = int(text)
    if lanes not in (1, 2, 4, 8, 12, 16, 32):
        raise Unreadable("not_reported")
    return lanes


def name(root: Root, path: str) -> str:
    """The device's name in the system's copy of the PCI ID database.

    Raises:
        Unreadable: there is no database, or the device is not in it.
    """
    vendor = root.text(f"{path}/vendor").removeprefix("0x")
    device = root.text(f"{path}/device").removeprefix("0x")
    for database in _DATABASES:
        table = optional(partial(root.data, database, 8 << 20))
        found = table and _look_up(table, vendor, device)
        if found:
            return bounded(found)
    raise Unreadable("not_reported: the PCI ID database is missing or does not have it")


def _look_up(database: bytes, vendor: str, device: str) -> str | None:
    """Lines: ``vendor name``, below it ``TAB device name``. Searched as bytes: it has 40,000 of them."""
    start = (b"\n" + database).find(f"\n{vendor} ".encode())
    if start < 0:
        return None
    following = re.compile(rb"\n[^\t#\n]").search(database, start)
    end = following.start() if following else len(database)
    found = re.compile(rf"^\t{re.escape(device)} +(.*)$".encode(), re.MULTILINE).search(database, start, end)
    return found[1].decode(errors="replace").strip() if found else None
