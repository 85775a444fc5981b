"""How ``obt-agent hardware`` looks at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from obt_agent.cli import hardware_words as shown
from obt_agent.cli.hardware_gpus import gpus
from obt_agent.cli.models import size_text
from obt_agent.hardware.advice import advice, explained
from obt_agent.hardware.inventory import GpuInfo, Inventory
from obt_agent.hardware.samples import GpuSample, OllamaProcess, Sample
from obt_agent.hardware.service import SamplerCost

_NOT_VERIFIED = "not verified on real hardware"
_BAR_WIDTH = 30
_NEARLY_ALL = 10
_NOT_WORTH_SAYING = ("not_supported", "no_source", "unified_memory", "needs_two_readings", "suspended")
"""Reasons that nobody can do anything about; ``--json`` has them."""


def report(inventory: Inventory, sample: Sample) -> RenderableType:
    """The whole machine: what was found, where it came from, and what could not be read."""
    parts: list[RenderableType] = [_machine(inventory, sample)]
    if inventory.gpus:
        parts.append(gpus(inventory, sample))
    if sample.ollama:
        parts.append(_ollama(sample.ollama))
    parts.append(_providers(inventory))
    missing = tuple(_missing(inventory, sample))
    if missing:
        parts.append(_gaps(missing))
    return Group(*parts)


def live(inventory: Inventory, sample: Sample, cost: SamplerCost) -> RenderableType:
    """What changes, with bars."""
    table = Table.grid(padding=(0, 2))
    for name, ratio, words in _bars(inventory, sample):
        bar = (
            ProgressBar(total=1.0, completed=ratio, width=_BAR_WIDTH)
            if ratio is not None
            else Text(shown.NOTHING)
        )
        table.add_row(Text(name), bar, Text(words))
    footer = f"sampler: {cost.cpu_ratio:.2%} of a core, {cost.samples} samples, {cost.missed} missed"
    parts: list[RenderableType] = [table, Text(footer, style="dim")]
    if sample.ollama:
        parts.insert(1, _ollama(sample.ollama))
    return Group(*parts)


def _machine(inventory: Inventory, sample: Sample) -> Table:
    table = shown.table("This machine")
    table.add_column()
    table.add_column(overflow="fold")
    for name, words in _machine_rows(inventory, sample):
        shown.row(table, name, words)
    return table


def _machine_rows(inventory: Inventory, sample: Sample) -> Iterator[tuple[str, str]]:
    host, cpu, memory = inventory.host, inventory.cpu, inventory.memory
    yield "System", shown.joined(host.distro, host.kernel and f"Linux {host.kernel}", host.arch)
    board = host.board.name or host.board.product if host.board else None
    yield "Runs on", shown.joined(board, _surroundings(inventory))
    yield "CPU", shown.joined(cpu.model, _cores(inventory), _kinds(inventory), shown.frequency(cpu.max_hertz))
    yield (
        "CPU load",
        _cpu_now(sample),
    )
    yield (
        "Memory",
        shown.joined(
            shown.size(memory.total_bytes), memory.type, shown.speed(memory.speed_mt_s), _used(sample)
        ),
    )
    yield "Ollama", shown.joined(host.ollama_version, _limits(inventory))
    for store in inventory.storage:
        free = store.free_bytes is not None and f"{size_text(store.free_bytes)} free"
        yield "Models on", shown.joined(store.kind, store.model, store.filesystem, free or None)


def _cpu_now(sample: Sample) -> str:
    cpu = sample.cpu
    clock = None if cpu.clock_hertz is None else f"{cpu.clock_hertz / 1e9:.2f} GHz"
    return shown.joined(shown.percent(cpu.utilization_ratio), clock, shown.degrees(cpu.temperature_celsius))


def _surroundings(inventory: Inventory) -> str | None:
    host = inventory.host
    virtual = host.virtualization not in (None, "none") and f"virtual machine ({host.virtualization})"
    contained = host.container not in (None, "none") and f"container ({host.container})"
    return ", ".join(word for word in (virtual, contained, host.wsl and "WSL") if word) or None


def _cores(inventory: Inventory) -> str | None:
    cpu = inventory.cpu
    if cpu.physical_cores is None and cpu.logical_cores is None:
        return None
    return f"{cpu.physical_cores or '?'} cores, {cpu.logical_cores or '?'} threads"


def _kinds(inventory: Inventory) -> str | None:
    kinds = ", ".join(f"{kind.logical_cores} {kind.name}" for kind in inventory.cpu.core_types)
    return f"({kinds})" if kinds else None


def _limits(inventory: Inventory) -> str | None:
    limits = inventory.limits
    memory = limits.memory_bytes is not None and f"memory limited to {size_text(limits.memory_bytes)}"
    cpus = limits.cpus is not None and f"{limits.cpus:g} CPUs"
    cpuset = limits.cpuset and f"on CPUs {limits.cpuset}"
    return ", ".join(word for word in (memory, cpus, cpuset) if word) or None


def _used(sample: Sample) -> str | None:
    return None if sample.memory.used_bytes is None else f"{size_text(sample.memory.used_bytes)} used"


def _ollama(processes: Iterable[OllamaProcess]) -> Table:
    table = shown.table("Ollama's processes", "PID", "Role", "CPU", "Memory", "GPU memory")
    for process in processes:
        gpu = ", ".join(size_text(size) for size in process.gpu_memory_bytes.values())
        cores = None if process.cpu_ratio is None else f"{process.cpu_ratio:.2f} cores"
        shown.row(
            table,
            str(process.pid),
            process.role,
            cores or shown.NOTHING,
            shown.size(process.rss_bytes) or "",
            gpu or "–",
        )
    return table


def _providers(inventory: Inventory) -> Table:
    table = shown.table("Sources", "Source", "State", "")
    for provider in inventory.providers:
        state = Text(provider.status, style=shown.WELL.get(provider.status, "yellow"))
        words = [explained(provider.reason)] if provider.reason else []
        if not provider.verified and provider.status != "absent":
            words.append(_NOT_VERIFIED)
        shown.row(table, provider.name, state, "; ".join(words))
    return table


def _missing(inventory: Inventory, sample: Sample) -> Iterator[tuple[str, str, str, str]]:
    """Where, which fields, why, and what to do: of what a person may want to know."""
    places: list[tuple[str, dict[str, str]]] = [
        ("host", inventory.host.unavailable),
        ("CPU", inventory.cpu.unavailable | sample.cpu.unavailable),
        ("memory", inventory.memory.unavailable | sample.memory.unavailable),
        ("limits", inventory.limits.unavailable),
        *(("storage", store.unavailable) for store in inventory.storage),
        *((gpu.name or gpu.id, gpu.unavailable | gpu.memory.unavailable) for gpu in inventory.gpus),
        *((gpu.id, gpu.unavailable) for gpu in sample.gpus if gpu.state != "suspended"),
        *((f"Ollama's {process.role}", process.unavailable) for process in sample.ollama),
    ]
    fields: dict[tuple[str, str, str], list[str]] = {}
    for place, unavailable in places:
        for field, reason in unavailable.items():
            if reason not in _NOT_WORTH_SAYING and not reason.startswith("no_source"):
                fields.setdefault((place, reason, advice(field, reason) or ""), []).append(field)
    for (place, reason, todo), names in fields.items():
        yield place, _named(list(dict.fromkeys(names))), explained(reason), todo


def _named(fields: list[str]) -> str:
    """All of them; of a device that cannot be read at all, that."""
    return ", ".join(fields) if len(fields) < _NEARLY_ALL else f"nearly everything ({len(fields)} readings)"


def _gaps(missing: Iterable[tuple[str, str, str, str]]) -> Group:
    """A list, not a table: names of fields are long, and terminals narrow."""
    parts: list[RenderableType] = [Text("Could not be read", style="italic"), Text()]
    for place, names, why, todo in missing:
        parts.append(Padding(Text.assemble((place, "bold"), ": ", names), (0, 0, 0, 2)))
        parts.append(Padding(Text(why, style="dim"), (0, 0, 0, 6)))
        if todo:
            parts.append(Padding(Text(f"→ {todo}"), (0, 0, 0, 6)))
    return Group(*parts)


def _bars(inventory: Inventory, sample: Sample) -> Iterator[tuple[str, float | None, str]]:
    yield (
        "CPU",
        sample.cpu.utilization_ratio,
        _cpu_now(sample),
    )
    total = inventory.memory.total_bytes
    yield (
        "Memory",
        _ratio(sample.memory.used_bytes, total),
        shown.of(sample.memory.used_bytes, total) or shown.NOTHING,
    )
    known = {gpu.id: gpu for gpu in inventory.gpus}
    for gpu in sample.gpus:
        yield from _gpu_bars(known.get(gpu.id), gpu)


def _gpu_bars(info: GpuInfo | None, gpu: GpuSample) -> Iterator[tuple[str, float | None, str]]:
    name = (info and info.name) or gpu.id
    state = None if gpu.state == "ok" else gpu.state
    words = shown.joined(
        state,
        shown.percent(gpu.utilization_ratio),
        shown.watts(gpu.power_watts),
        shown.degrees(gpu.temperature_celsius),
    )
    yield name, gpu.utilization_ratio, words
    memory = info.memory if info else None
    if memory and memory.total_bytes:
        used = gpu.memory_used_bytes
        yield (
            "  memory",
            _ratio(used, memory.total_bytes),
            shown.of(used, memory.total_bytes) or shown.NOTHING,
        )
    if memory and memory.shared_total_bytes:
        used = gpu.shared_used_bytes
        yield (
            "  shared",
            _ratio(used, memory.shared_total_bytes),
            shown.of(used, memory.shared_total_bytes) or shown.NOTHING,
        )


def _ratio(used: int | None, total: int | None) -> float | None:
    return None if used is None or not total else used / total
