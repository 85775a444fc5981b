"""GPU memory of a process, from /proc/PID/fdinfo of the DRM devices that it has open.

The format is the kernel's drm-usage-stats. Another user's processes may be looked into by root alone.
"""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import optional
from obt_agent.hardware.host.linux.kernel_text import key_values
from obt_agent.hardware.snapshot.root import Root

_DEVICES = "/dev/dri/"
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}
# Newer and older spelling; what is resident counts, and no region twice.
_PREFIXES = ("drm-resident-", "drm-memory-")


def regions(root: Root, pid: int, address: str) -> dict[str, int]:
    """Bytes that a process has on the GPU at this address, by region (vram, gtt, vram0, local0 ...).

    Raises OSError where the process cannot be looked into (EACCES: it is another user's), or is gone.
    """
    # Duplicated descriptors name one client: what it has counts once.
    clients = dict(_clients(root, pid, address))
    totals: dict[str, int] = {}
    for used in clients.values():
        for region, size in used.items():
            totals[region] = totals.get(region, 0) + size
    return totals


def _clients(root: Root, pid: int, address: str) -> list[tuple[str, dict[str, int]]]:
    """Of each open device: its client's number (the same through duplicated descriptors), and its regions."""
    folder = f"/proc/{pid}"
    found = []
    for number in root.names(f"{folder}/fd"):
        target = optional(partial(root.link, f"{folder}/fd/{number}")) or ""
        if target.startswith(_DEVICES):
            values = key_values(root.known_text(f"{folder}/fdinfo/{number}"))
            if values.get("drm-pdev") == address:
                found.append((values.get("drm-client-id", number), sizes(values)))
    return found


def sizes(values: dict[str, str]) -> dict[str, int]:
    """Bytes by region."""
    found: dict[str, int] = {}
    for prefix in _PREFIXES:
        for name, value in values.items():
            region = name.removeprefix(prefix)
            number, _, unit = value.partition(" ")
            if region != name and region not in found and number.isdigit() and unit in _UNITS:
                found[region] = int(number) * _UNITS[unit]
    return found
