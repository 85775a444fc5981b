"""Which disks and network interfaces count, so that no byte counts twice.

A device that stands on others is told by what the kernel says of it, not by its name: RAID, LVM, LUKS, bcache
and device mapper list what they stand on in ``slaves``; ZFS volumes, loop devices and memory disks have no
hardware, and so live below ``/sys/devices/virtual/block``; a path below NVMe multipath is ``hidden``.
"""

from __future__ import annotations

import re
from functools import partial

from obt_agent.hardware.field_reader import optional
from obt_agent.hardware.snapshot.root import Root

_BLOCK, _NET = "/sys/block", "/sys/class/net"
_NO_HARDWARE = "/sys/devices/virtual/block/"
_SWAPPED_MEDIA = ("sr", "fd")  # optical and floppy drives have hardware, but hold no models
_STACKED_BY_NAME = re.compile(r"(loop|ram|zram|dm-|md|nbd|zd|bcache|drbd)\d|nvme\d+c\d+n\d")


def disks(root: Root) -> frozenset[str]:
    """Return the names of the disks to count. Does not raise."""
    names = optional(partial(root.names, _BLOCK)) or []
    return frozenset(name for name in names if _is_disk(root, name))


def _is_disk(root: Root, name: str) -> bool:
    folder = f"{_BLOCK}/{name}"
    hidden = root.known_text(f"{folder}/hidden") == "1"
    stands_on = optional(partial(root.names, f"{folder}/slaves"))
    if hidden or stands_on or name.startswith(_SWAPPED_MEDIA):
        return False
    place = optional(partial(root.resolve, folder)) or folder
    if place == folder:  # no link into the tree of devices (a poor snapshot): only the name is left
        return _STACKED_BY_NAME.match(name) is None
    return not place.startswith(_NO_HARDWARE)


def interfaces(root: Root) -> frozenset[str]:
    """Return the interfaces with a device; in a container, which sees none of those, all but loopback.

    Bridges, bonds, VLANs and tunnels have no device: their bytes pass through one that has. Does not raise.
    """
    found = optional(partial(root.names, _NET)) or []
    physical = [name for name in found if root.exists(f"{_NET}/{name}/device")]
    return frozenset(physical or [name for name in found if name != "lo"])
