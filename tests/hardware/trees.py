"""Small snapshots, written where a test needs one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from obt_agent.hardware.snapshot.root import SnapshotRoot

STAT = "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0\n"
MEMINFO = "MemTotal:  1000 kB\nMemAvailable:  600 kB\nSwapTotal:  100 kB\nSwapFree:  75 kB\n"
BASICS = {
    "/proc/stat": STAT,
    "/proc/meminfo": MEMINFO,
    "/proc/loadavg": "0.50 0.25 0.10 1/100 4242\n",
    "/proc/cpuinfo": "processor\t: 0\nmodel name\t: Test CPU\nflags\t\t: avx2\n",
    "/proc/sys/kernel/osrelease": "6.8.0-test\n",
    "/proc/sys/kernel/ostype": "Linux\n",
    "/proc/sys/kernel/arch": "x86_64\n",
}


def tree(
    folder: Path,
    files: Mapping[str, str | bytes] | None = None,
    *,
    errors: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
) -> SnapshotRoot:
    """Write a snapshot into the folder, and open it."""
    (folder / "tree").mkdir(parents=True, exist_ok=True)
    for path, content in (files or {}).items():
        put(folder, path, content)
    manifest = {
        "origin": "synthetic",
        "source": "a test",
        "errors": dict(errors or {}),
        "links": dict(links or {}),
        "sizes": dict(sizes or {}),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return SnapshotRoot(folder)


def put(folder: Path, path: str, content: str | bytes) -> None:
    """Write one file of a snapshot."""
    place = folder / "tree" / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content.encode() if isinstance(content, str) else content)


def pci(address: str, vendor: str, **more: str) -> dict[str, str]:
    """The files of a display device on the PCI bus."""
    folder = f"/sys/bus/pci/devices/{address}"
    files = {"vendor": vendor, "class": "0x030000", "device": "0x2684", **more}
    return {f"{folder}/{name.replace('__', '/')}": f"{content}\n" for name, content in files.items()}
