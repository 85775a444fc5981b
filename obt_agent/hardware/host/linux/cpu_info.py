"""What the CPUs are: /proc/cpuinfo and /sys/devices/system/cpu."""

from __future__ import annotations

import re
from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded, optional
from obt_agent.hardware.host.linux import arm_cores
from obt_agent.hardware.inventory import CoreType, CpuInfo
from obt_agent.hardware.snapshot.root import Root

_CPUS = "/sys/devices/system/cpu"
_BRANDED = re.compile(r"@ ([0-9]+\.[0-9]+)GHz$")

_ISA = (
    *("sse4_2", "avx", "avx2", "f16c", "fma", "bmi2"),
    *(
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "avx_vnni",
        "avx_vnni_int8",
    ),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16", "sme"),
)
"""Extensions that inference code chooses by, in the kernel's spelling."""


class CpuText:
    """/proc/cpuinfo, parsed: one block of ``name: value`` per logical CPU."""

    def __init__(self, text: str) -> None:
        self.blocks = [block for part in text.split("\n\n") if (block := _block(part))]

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


def _block(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def count_list(text: str) -> int:
    """How many numbers the kernel's list holds ("0-3,8" is 5). Raises ValueError."""
    return len(expand_list(text))


def expand_list(text: str) -> list[int]:
    """The numbers of the kernel's list. Raises ValueError."""
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
    gaps = FieldReader()
    text = CpuText(gaps.read("model", lambda: root.text("/proc/cpuinfo")) or "")
    return CpuInfo(
        model=gaps.first(
            "model", lambda: text.value("model name", "Model Name"), lambda: arm_cores.name(text.processors())
        ),
        vendor=gaps.first(
            "vendor", lambda: text.value("vendor_id"), lambda: arm_cores.vendor(text.value("CPU implementer"))
        ),
        microcode=gaps.read("microcode", lambda: text.value("microcode")),
        sockets=gaps.first("sockets", lambda: text.distinct("physical id"), lambda: _sockets(root)),
        physical_cores=gaps.first(
            "physical_cores", lambda: _cores(root), lambda: text.distinct("physical id", "core id")
        ),
        logical_cores=gaps.first(
            "logical_cores",
            lambda: _positive(count_list(root.text(f"{_CPUS}/online"))),
            lambda: _logical(text),
        ),
        core_types=_core_types(root, text),
        isa=_isa(text),
        base_hertz=gaps.first(
            "base_hertz",
            lambda: _kilohertz(root, "base_frequency"),
            lambda: _nominal(root),
            lambda: _branded(text),
        ),
        max_hertz=gaps.read("max_hertz", lambda: _kilohertz(root, "cpuinfo_max_freq")),
        numa_nodes=gaps.read(
            "numa_nodes", lambda: _positive(count_list(root.text("/sys/devices/system/node/online")))
        ),
        unavailable=gaps.reasons,
    )


def _positive(count: int) -> int:
    if count <= 0:
        raise Unreadable("malformed")
    return count


def _logical(text: CpuText) -> int:
    return _positive(len(text.processors()))


def _isa(text: CpuText) -> tuple[str, ...]:
    blocks = (block.get("flags") or block.get("Features") for block in text.blocks)
    flags = set(next(filter(None, blocks), "").split())
    return tuple(word for word in _ISA if word in flags)


def _cpu_folders(root: Root) -> list[str]:
    names = [name for name in root.names(_CPUS) if name.startswith("cpu") and name[3:].isdigit()]
    return [f"{_CPUS}/{name}" for name in names]


def _cores(root: Root) -> int:
    groups = (
        optional(partial(root.text, f"{folder}/topology/core_cpus_list")) for folder in _cpu_folders(root)
    )
    return _positive(len(set(filter(None, groups))))


def _sockets(root: Root) -> int:
    packages = {root.text(f"{folder}/topology/physical_package_id") for folder in _cpu_folders(root)}
    return _positive(len(packages))


def _kilohertz(root: Root, file: str) -> int:
    policies = f"{_CPUS}/cpufreq"
    speeds = [
        root.integer(f"{policies}/{name}/{file}")
        for name in root.names(policies)
        if name.startswith("policy")
    ]
    if not speeds:
        raise Unreadable("not_present")
    return _positive(max(speeds)) * 1000


def _nominal(root: Root) -> int:
    """ACPI's nominal frequency, in MHz, which AMD's and Arm's firmware tells; some firmware says 0."""
    megahertz = [
        optional(partial(root.integer, f"{cpu}/acpi_cppc/nominal_freq")) for cpu in _cpu_folders(root)
    ]
    known = [value for value in megahertz if value]
    if not known:
        raise Unreadable("not_present")
    return _positive(max(known)) * 1_000_000


def _branded(text: CpuText) -> int:
    """The frequency at the end of Intel's brand string ("@ 2.50GHz"), which is the base frequency."""
    found = _BRANDED.search(optional(partial(text.value, "model name")) or "")
    if found is None:
        raise Unreadable("not_present")
    return _positive(round(float(found[1]) * 1e9))


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
    return max(root.integer(f"{_CPUS}/cpu{n}/cpufreq/cpuinfo_max_freq") for n in cpus) * 1000
