"""What the CPUs are: /proc/cpuinfo and /sys/devices/system/cpu."""

from __future__ import annotations

import re
from functools import partial

import msgspec

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded, each, optional, positive
from obt_agent.hardware.host.linux import arm_cores
from obt_agent.hardware.host.linux.kernel_text import key_values
from obt_agent.hardware.inventory import CoreType, CpuInfo
from obt_agent.hardware.snapshot.root import Root

_CPUS = "/sys/devices/system/cpu"
_DEVICE_TREE = "/sys/firmware/devicetree/base"
_NUMBERS = re.compile(r"-?[0-9][0-9,-]*")
_BRANDED = re.compile(r"@ ([0-9]+\.[0-9]+)GHz$")

# Extensions that inference code chooses by, in the kernel's spelling: x86's, then Arm's.
_ISA = (
    "sse4_2", "avx", "avx2", "f16c", "fma", "bmi2",
    "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16", "sme",
)  # fmt: skip


class CpuText:
    """/proc/cpuinfo, parsed: one block of ``name: value`` per logical CPU."""

    def __init__(self, text: str) -> None:
        self.blocks = [block for part in text.split("\n\n") if (block := key_values(part))]

    def value(self, *names: str) -> str:
        """The first value of the first of these names that has one. Raises Unreadable ("not_reported")."""
        for name in names:
            for block in self.blocks:
                if name in block:
                    return bounded(block[name])
        raise Unreadable("not_reported")

    def processors(self) -> list[dict[str, str]]:
        """The blocks that are of CPUs (some architectures end with one about the board)."""
        return [block for block in self.blocks if "processor" in block]

    def distinct(self, *names: str) -> int:
        """How many combinations of these values there are. Raises Unreadable ("not_reported")."""
        found = {
            tuple(block[n] for n in names) for block in self.processors() if all(n in block for n in names)
        }
        if not found:
            raise Unreadable("not_reported")
        return len(found)


def expand_list(text: str) -> list[int]:
    """Return the numbers of the kernel's list ("0-3,8" are five of them). Raise ValueError."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        start, end = int(first), int(last) if dash else int(first)
        if not 0 <= start <= end < start + 65536:
            raise ValueError(text)
        numbers.extend(range(start, end + 1))
    return numbers


def read(root: Root) -> CpuInfo:
    """Describe the CPUs. Never raises."""
    fields = FieldReader()
    text = CpuText(fields.read("model", lambda: root.text("/proc/cpuinfo")) or "")
    info = CpuInfo(
        model=fields.first(
            "model", lambda: text.value("model name", "Model Name"), lambda: arm_cores.name(text.processors())
        ),
        vendor=fields.first(
            "vendor", lambda: text.value("vendor_id"), lambda: arm_cores.vendor(text.value("CPU implementer"))
        ),
        microcode=fields.read("microcode", lambda: text.value("microcode")),
        sockets=fields.first("sockets", lambda: text.distinct("physical id"), lambda: _sockets(root)),
        physical_cores=fields.first(
            "physical_cores", lambda: _cores(root), lambda: text.distinct("physical id", "core id")
        ),
        logical_cores=fields.first(
            "logical_cores", lambda: positive(len(online(root))), lambda: positive(len(text.processors()))
        ),
        core_types=_core_types(root, text),
        isa=_isa(text),
        base_hertz=fields.first(
            "base_hertz",
            lambda: _kilohertz(root, "base_frequency"),
            lambda: _nominal(root),
            lambda: _branded(text),
        ),
        max_hertz=fields.read("max_hertz", lambda: _kilohertz(root, "cpuinfo_max_freq")),
        numa_nodes=fields.read(
            "numa_nodes", lambda: positive(len(expand_list(root.text("/sys/devices/system/node/online"))))
        ),
        governor=fields.read("governor", lambda: _governor(root)),
        unavailable=fields.reasons,
    )
    if info.physical_cores and info.logical_cores and info.physical_cores > info.logical_cores:
        reason = {"physical_cores": "inconsistent"}
        return msgspec.structs.replace(info, physical_cores=None, unavailable=info.unavailable | reason)
    return info


def _isa(text: CpuText) -> tuple[str, ...]:
    blocks = (block.get("flags") or block.get("Features") for block in text.blocks)
    flags = set(next(filter(None, blocks), "").split())
    return tuple(word for word in _ISA if word in flags)


def online(root: Root) -> frozenset[int]:
    """Return the CPUs that run. Raise OSError, ValueError."""
    return frozenset(expand_list(root.text(f"{_CPUS}/online")))


def is_of_this_scope(root: Root) -> bool:
    """Return whether the folders of CPUs are of the machine that ``online`` speaks of.

    In a container of LXC they are the host's, while lxcfs writes the list anew, in the container's numbers.
    """
    listed = optional(partial(online, root))
    return not listed or all(
        number in listed or root.known_text(f"{_CPUS}/cpu{number}/online") == "0"
        for number in _numbers(root)
        # The folder of a CPU that is switched off has lost its topology.
        if root.exists(f"{_CPUS}/cpu{number}/topology")
    )


def _numbers(root: Root) -> list[int]:
    names = optional(partial(root.names, _CPUS)) or []
    return sorted(int(name[3:]) for name in names if name.startswith("cpu") and name[3:].isdigit())


def cpu_folders(root: Root) -> list[str]:
    """Return the folder of each CPU, running or not."""
    return [f"{_CPUS}/cpu{number}" for number in _numbers(root)]


def _of_each_cpu(root: Root, file: str) -> set[str]:
    """Return what the CPUs' files of this name hold. Raise Unreadable."""
    if not is_of_this_scope(root):
        raise Unreadable("inconsistent: the container sees the host's CPUs under other numbers")
    return set(each(partial(_filled, root, f"{folder}/{file}") for folder in cpu_folders(root)))


def _filled(root: Root, path: str) -> str:
    """Return a list of numbers as the kernel wrote it. Raise OSError, ValueError, Unreadable."""
    text = root.text(path)
    if not text:
        raise Unreadable("not_reported")
    if not _NUMBERS.fullmatch(text):
        raise ValueError(text)
    return text


def _cores(root: Root) -> int:
    return positive(len(_of_each_cpu(root, "topology/core_cpus_list")))


def _sockets(root: Root) -> int:
    """Return the count of packages.

    On Arm without ACPI the kernel has called clusters of cores packages: there the device tree tells sockets
    in its map of CPUs, and a tree without them is of a board with one.
    """
    packages = {int(package) for package in _of_each_cpu(root, "topology/physical_package_id")}
    if root.exists(_DEVICE_TREE):
        return max(1, len(root.below(f"{_DEVICE_TREE}/cpus/cpu-map", "socket")))
    return positive(len([package for package in packages if package >= 0]))  # -1: the kernel cannot tell


def _governor(root: Root) -> str:
    """The governors of all policies, each once."""
    files = (f"{policy}/scaling_governor" for policy in root.below(f"{_CPUS}/cpufreq", "policy"))
    words = each(partial(root.text, file) for file in files)
    return bounded(", ".join(sorted(set(words))))


def _kilohertz(root: Root, file: str) -> int:
    policies = f"{_CPUS}/cpufreq"
    names = [name for name in root.names(policies) if name.startswith("policy")]
    return positive(max(each(partial(root.integer, f"{policies}/{name}/{file}") for name in names))) * 1000


def _nominal(root: Root) -> int:
    """ACPI's nominal frequency, in MHz, which AMD's and Arm's firmware tells; some firmware says 0."""
    files = (f"{cpu}/acpi_cppc/nominal_freq" for cpu in cpu_folders(root))
    return positive(max(each(partial(root.integer, file) for file in files))) * 1_000_000


def _branded(text: CpuText) -> int:
    """The frequency at the end of Intel's brand string ("@ 2.50GHz"), which is the base frequency."""
    found = _BRANDED.search(optional(partial(text.value, "model name")) or "")
    if found is None:
        raise Unreadable("not_present")
    return positive(round(float(found[1]) * 1e9))


def _core_types(root: Root, text: CpuText) -> tuple[CoreType, ...]:
    """Hybrid x86 has a PMU for each kind of core, Arm a part number; one kind goes unsaid."""
    kinds = []
    for name, pmu in (("performance", "cpu_core"), ("efficiency", "cpu_atom"), ("low_power", "cpu_lowpower")):
        cpus = optional(partial(_cpus_of, root, pmu))
        if cpus:
            fastest = optional(partial(_fastest, root, cpus))
            kinds.append(CoreType(name=name, logical_cores=len(cpus), max_hertz=fastest))
    return tuple(kinds) or _arm_types(root, text)


def _arm_types(root: Root, text: CpuText) -> tuple[CoreType, ...]:
    """The fastest kind first."""
    parts: dict[str, list[int]] = {}
    for block in text.processors():
        name = arm_cores.part(block)
        if name is not None and block["processor"].isdigit():
            parts.setdefault(name, []).append(int(block["processor"]))
    if len(parts) < 2:  # noqa: PLR2004 -- one kind of core is no kind
        return ()
    kinds = [
        CoreType(name=name, logical_cores=len(cpus), max_hertz=optional(partial(_fastest, root, cpus)))
        for name, cpus in parts.items()
    ]
    return tuple(sorted(kinds, key=lambda kind: kind.max_hertz or 0, reverse=True))


def _cpus_of(root: Root, pmu: str) -> list[int]:
    return expand_list(root.text(f"/sys/devices/{pmu}/cpus"))


def _fastest(root: Root, cpus: list[int]) -> int:
    files = (f"{_CPUS}/cpu{number}/cpufreq/cpuinfo_max_freq" for number in cpus)
    return positive(max(each(partial(root.integer, file) for file in files))) * 1000
