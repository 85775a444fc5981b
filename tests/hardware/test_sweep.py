"""Each file of each machine once unreadable, empty, zero or garbage: nothing changes but what it tells.

The table says which values rest on which file. What is not in it may change nothing; a value that is in it
may get lost, with a reason, but may become another number only where the table of substitutes says so.

``OBT_SWEEP=all`` plays every file of every snapshot; otherwise a sample, the same in every run.
"""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.hardware.field_reader import REASONS
from obt_agent.hardware.gpu.registry import gpu_providers
from obt_agent.hardware.read_once import read_once
from obt_agent.hardware.snapshot.root import SnapshotRoot
from tests.hardware.replay import NAMES, SNAPSHOTS

ERRORS = ("EACCES", "EIO", "ENOENT")
CONTENTS = {"empty": b"", "zero": b"0\n", "garbage": b"\xff: !\n"}
FAULTS = (*ERRORS, *CONTENTS)
SAMPLED = 12  # of each snapshot, each with one fault

Values = dict[str, Any]

CPU = r"inventory\.cpu\."
GPUS = (
    r"(inventory|sample)\.gpus\.|inventory\.providers\.(amd|intel|nvidia)\.|sample\.ollama\.\d+\.gpu_memory"
)
OLLAMA = r"sample\.ollama\.|inventory\.limits\.|inventory\.storage|sample\.memory\.cgroup_available"
STORE = r"inventory\.storage"
DEPENDS = (
    (r"/proc/stat", r"sample\.cpu\.(utilization_ratio|per_core)|inventory\.providers\.cpu"),
    (r"/proc/loadavg", r"sample\.cpu\.load"),
    (
        r"/proc/meminfo",
        rf"inventory\.memory\.(swap_)?total|sample\.memory\.(used|avail|swap)|inventory\.providers\.memory|{GPUS}",
    ),
    (r"/proc/spl/kstat/zfs/arcstats", r"sample\.memory\.(used|available)_bytes"),
    (r"/proc/cpuinfo", rf"{CPU}|inventory\.host\.virtualization"),
    (r"/proc/diskstats", r"sample\.disk\."),
    (r"/proc/(\d+/)?net/dev", r"sample\.network\."),
    (r"/proc/pressure/(cpu|memory|io)", r"sample\.pressure\."),
    (r"/proc/sys/kernel/ostype", r"inventory\.host\.os"),
    (r"/proc/sys/kernel/arch", r"inventory\.host\.arch"),
    (
        r"/proc/sys/kernel/osrelease",
        r"inventory\.host\.(kernel|wsl|virtualization)|inventory\.providers\.host",
    ),
    (r"(/etc|/usr/lib)/os-release", r"inventory\.host\.distro"),
    (r"/proc/1/cgroup|/run/.*contain.*|/\.dockerenv", r"inventory\.host\.container"),
    (
        r"/proc/self/(mountinfo|cgroup)",
        rf"inventory\.host\.container|{OLLAMA}|inventory\.providers\.(limits|storage)",
    ),
    (r"/proc/\d+/(fdinfo|fd)/.*", GPUS),
    (r"/proc/\d+/.*", rf"{OLLAMA}|inventory\.providers\.(limits|storage)|{GPUS}"),
    (r"/etc/passwd", rf"{STORE}|inventory\.providers\.storage"),
    (r"/sys/fs/cgroup/.*", r"inventory\.limits\.|sample\.memory\.cgroup_available"),
    (r"/sys/class/dmi/id/.*", r"inventory\.host\.(board|bios|virtualization)"),
    (r"/sys/firmware/devicetree/.*", r"inventory\.host\.(board|virtualization)"),
    (r"/sys/firmware/dmi/.*|/run/udev/.*", r"inventory\.memory\.(modules|type|speed_mt_s)"),
    (r"/sys/hypervisor/.*|/proc/xen/.*", r"inventory\.host\.virtualization"),
    (r"/sys/devices/system/cpu/online", rf"{CPU}|inventory\.limits\.cpuset"),
    (r"/sys/devices/system/cpu/cpu\d+/topology/.*", rf"{CPU}(sockets|physical_cores)|sample\.cpu\.throttled"),
    (r"/sys/devices/system/cpu/cpu\d+/online", rf"{CPU}(sockets|physical_cores)|inventory\.limits\.cpuset"),
    (r"/sys/devices/system/cpu/cpu\d+/thermal_throttle/.*", r"sample\.cpu\.throttled"),
    (
        r"/sys/devices/system/cpu/.*freq.*",
        rf"{CPU}(base_hertz|max_hertz|core_types)|sample\.cpu\.clock_hertz",
    ),
    (r"/sys/devices/cpu_\w+/cpus", rf"{CPU}core_types"),
    (r"/sys/devices/system/node/online", rf"{CPU}numa_nodes"),
    (r"/sys/class/(hwmon|thermal)/.*", r"sample\.cpu\.temperature"),
    (r"/sys/class/powercap/.*", r"sample\.cpu\.package_energy"),
    (r"/sys/(dev|class)/block/.*|/sys/devices/.*/(block|virtual)/.*", rf"{STORE}|sample\.disk\."),
    (r"/sys/(bus/pci|class/drm|class/kfd|module|devices/pci|devices/virtual/kfd)/?.*", rf"{GPUS}|{STORE}"),
    (r"/sys/devices/.*/(device/model|queue/rotational|partition)", STORE),
    (r"/usr/share/.*\.ids", GPUS),
    (r"/proc/driver/.*|/dev/.*", GPUS),
)

SUBSTITUTES = re.compile(
    rf"{CPU}(base_hertz|max_hertz|sockets|physical_cores|logical_cores|core_types)"
    r"|sample\.cpu\.(clock_hertz|temperature_celsius|throttled_seconds_total)"
    r"|inventory\.(limits|storage)|sample\.memory\.(used|available|cgroup_available)_bytes|inventory\.memory\.modules"
    r"|(inventory|sample)\.gpus\."
)
"""Of several members the others remain, and some values have a second source."""

KNOWN = re.compile(
    r"/sys/devices/pci.*/hwmon/hwmon\d+/name \w+ sample\.ollama\.\d+\.gpu_memory_bytes"
    r"|.*/unique_id \w+ sample\.ollama\.\d+\.gpu_memory_bytes"
)
"""What is wrong still: an APU whose sensors lost their name counts as a card, and its shared memory goes. And
what only moves: a GPU without its own id goes by its address, in the keys of its processes too."""

ZERO_IS_A_VALUE = re.compile(
    r"sample\.(cpu\.load|memory|ollama|gpus|pressure)|inventory\.(limits|gpus|memory\.swap)|throttled|energy"
)


class FaultyRoot(SnapshotRoot):
    """A snapshot with one fault in one file, or with its folders in the opposite order."""

    def __init__(self, folder: Path, *, path: str = "", fault: str = "", backwards: bool = False) -> None:
        super().__init__(folder)
        self._path = path
        self._fault = fault
        self._backwards = backwards

    def open(self, path: str) -> int:
        if self.resolve(path) != self._path:
            return super().open(path)
        if self._fault in ERRORS:
            number = getattr(errno, self._fault)
            raise OSError(number, os.strerror(number), path)
        reading, writing = os.memfd_create("fault"), CONTENTS[self._fault]
        os.write(reading, writing)
        os.lseek(reading, 0, os.SEEK_SET)
        return reading

    def names(self, path: str) -> list[str]:
        names = super().names(path)
        return names[::-1] if self._backwards else names


def values_of(root: SnapshotRoot) -> Values:
    reading = msgspec.to_builtins(read_once(root, gpu_providers(root)))
    return {
        path.replace(".unavailable", ""): value
        for path, value in flat(reading, "")
        if not path.endswith("fingerprint")
    }


@cache
def healthy(name: str) -> Values:
    return values_of(SnapshotRoot(SNAPSHOTS / name))


def flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Return every value with its path; members of lists go by their name where they have one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            key = (
                next((inner[k] for k in ("id", "pid", "name") if k in inner), place)
                if isinstance(inner, dict)
                else place
            )
            yield from flat(inner, f"{path}.{key}")
    else:
        yield path, value


def files_of(name: str) -> list[str]:
    tree = SNAPSHOTS / name / "tree"
    return sorted("/" + str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())


def plays() -> Iterator[tuple[str, str, str]]:
    chosen = random.Random(7)
    for name in NAMES:
        files = files_of(name)
        if os.environ.get("OBT_SWEEP") == "all":
            yield from ((name, file, fault) for file in files for fault in FAULTS)
        else:
            picked = chosen.sample(files, min(SAMPLED, len(files)))
            yield from ((name, file, chosen.choice(FAULTS)) for file in picked)


def check(name: str, file: str, fault: str) -> list[str]:
    before, after = healthy(name), values_of(FaultyRoot(SNAPSHOTS / name, path=file, fault=fault))
    allowed = next((fields for pattern, fields in DEPENDS if re.fullmatch(pattern, file)), None)
    wrong = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new or KNOWN.match(f"{file} {fault} {path}"):
            continue
        if allowed is None or not re.match(allowed, path):
            wrong.append(f"{path}: {old!r} became {new!r}, but does not rest on this file")
        elif is_number(new) and not SUBSTITUTES.match(path) and not (fault == "zero" and new == 0):
            wrong.append(f"{path}: {old!r} became {new!r}, which nothing tells")
        elif is_number(new) and new == 0 and not ZERO_IS_A_VALUE.search(path):
            wrong.append(f"{path}: {old!r} became 0")
        elif isinstance(new, str) and is_number(old) and new.partition(":")[0] not in REASONS:
            wrong.append(f"{path}: {new!r} is no reason")
    return wrong


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.timeout(1800)  # the whole sweep of the largest snapshot
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_in_one_file_changes_nothing_but_what_rests_on_it(name: str) -> None:
    wrong = {
        f"{file} ({fault})": found
        for which, file, fault in plays()
        if which == name and (found := check(name, file, fault))
    }
    assert wrong == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_order_in_which_a_machine_lists_its_devices_changes_nothing(name: str) -> None:
    assert values_of(FaultyRoot(SNAPSHOTS / name, backwards=True)) == healthy(name)
