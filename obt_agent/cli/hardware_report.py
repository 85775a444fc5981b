"""How ``obt-agent hardware`` shows a machine at a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from obt_agent.cli.models import size_text
from obt_agent.hardware.advice import advice, reason_text
from obt_agent.hardware.inventory import GpuInfo, Inventory
from obt_agent.hardware.samples import GpuSample, OllamaProcess, Sample
from obt_agent.hardware.service import SamplerCost

_NOTHING = "–"
# Written from documents and recorded trees; nobody has compared it with another tool yet.
_NOT_VERIFIED = "not verified on real hardware"
# Any other state is yellow: it needs attention.
_STYLES = {"ok": "green", "suspended": "cyan", "absent": "dim"}
# Beside names and words it fits a terminal of 80 columns.
_BAR_WIDTH = 30
_CORES_IN_A_GROUP = 8
# From this many on, the fields that cannot be read of a device are counted and no longer named.
_NEARLY_ALL = 10
# Nobody can do anything about these reasons; ``--json`` has them.
_NOT_SHOWN = ("not_supported", "no_source", "unified_memory", "needs_two_readings", "suspended")

Row = tuple[str, str]
Bar = tuple[str, float | None, str]


def report(inventory: Inventory, sample: Sample) -> RenderableType:
    """Return the whole machine: what was found, where it came from, and what could not be read."""
    # What a person looks for first comes first; what is missing comes last, with what to do.
    parts: list[RenderableType] = [_grid("This machine", _machine_rows(inventory, sample))]
    if inventory.gpus:
        parts.append(_gpus(inventory, sample))
    if sample.ollama:
        parts.append(_ollama(sample.ollama))
    parts.append(_providers(inventory))
    missing = tuple(_missing(inventory, sample))
    if missing:
        parts.append(_gaps(missing))
    return Group(*parts)


def live(inventory: Inventory, sample: Sample, cost: SamplerCost) -> RenderableType:
    """Return what changes: bars, and words for what has no fixed most."""
    bars = Table.grid(padding=(0, 2))
    for name, ratio, words in _bars(inventory, sample):
        full = ProgressBar(total=1.0, completed=ratio or 0.0, width=_BAR_WIDTH)
        bars.add_row(Text(name), Text(_NOTHING) if ratio is None else full, Text(words))
    footer = f"sampler: {cost.cpu_ratio:.2%} of a core, {cost.samples} samples, {cost.missed} missed"
    parts: list[RenderableType] = [bars, _grid(None, _activity_rows(sample))]
    if sample.ollama:
        parts.append(_ollama(sample.ollama))
    return Group(*parts, Text(footer, style="dim"))


def _machine_rows(inventory: Inventory, sample: Sample) -> Iterator[Row]:
    host, cpu, memory = inventory.host, inventory.cpu, inventory.memory
    board = host.board.name or host.board.product if host.board else None
    kinds = ", ".join(f"{kind.logical_cores} {kind.name}" for kind in cpu.core_types)
    most = None if cpu.max_hertz is None else f"up to {_frequency(cpu.max_hertz)}"
    speed = None if memory.speed_mt_s is None else f"{memory.speed_mt_s} MT/s"
    used = sample.memory.used_bytes
    yield "System", _joined(host.distro, host.kernel and f"Linux {host.kernel}", host.arch)
    yield "Runs on", _joined(board, _virtualization(inventory))
    yield "CPU", _joined(cpu.model, _cores(inventory), kinds and f"({kinds})", most)
    yield "CPU now", _cpu_now(sample)
    yield (
        "Memory",
        _joined(
            _size(memory.total_bytes), memory.type, speed, None if used is None else f"{size_text(used)} used"
        ),
    )
    # A machine without swap has no row for it.
    if memory.swap_total_bytes:
        yield "Swap", _of(sample.memory.swap_used_bytes, memory.swap_total_bytes) or _NOTHING
    yield from _activity_rows(sample)
    yield "Ollama", _joined(host.ollama_version, _limits(inventory))
    for store in inventory.storage:
        free = None if store.free_bytes is None else f"{size_text(store.free_bytes)} free"
        yield "Models on", _joined(store.kind, store.model, store.filesystem, free)


def _activity_rows(sample: Sample) -> Iterator[Row]:
    """What the machine does beside computing; what is not known has no row."""
    cores = "".join(str(min(9, int(ratio * 10))) for ratio in sample.cpu.per_core_ratio)
    groups = (cores[start : start + _CORES_IN_A_GROUP] for start in range(0, len(cores), _CORES_IN_A_GROUP))
    pressure, disk, network = sample.pressure, sample.disk, sample.network
    rows = (
        # One digit a core tells at a glance, of 2 cores and of 256, which of them work.
        ("Each core", f"{' '.join(groups)} (tenths busy)" if cores else ""),
        (
            "Waiting",
            _named(
                ("for a CPU", _percent(pressure.cpu_ratio)),
                ("for memory", _percent(pressure.memory_ratio)),
                ("for I/O", _percent(pressure.io_ratio)),
            ),
        ),
        (
            "Disks",
            _named(
                ("read", _rate(disk.read_bytes_per_second)), ("write", _rate(disk.write_bytes_per_second))
            ),
        ),
        (
            "Network",
            _named(
                ("receive", _rate(network.receive_bytes_per_second)),
                ("send", _rate(network.transmit_bytes_per_second)),
            ),
        ),
        ("Ollama's limit", _named(("memory left", _size(sample.memory.cgroup_available_bytes)))),
    )
    return (row for row in rows if row[1])


def _cpu_now(sample: Sample) -> str:
    cpu = sample.cpu
    load = " ".join(f"{value:.1f}" for value in cpu.load)
    return _joined(
        _percent(cpu.utilization_ratio),
        load and f"load {load}",
        _frequency(cpu.clock_hertz),
        _degrees(cpu.temperature_celsius),
        # Since the kernel's start: anything but 0 says that cooling was too weak at some time.
        cpu.throttled_seconds_total and f"throttled {cpu.throttled_seconds_total:.0f} s so far",
    )


def _virtualization(inventory: Inventory) -> str | None:
    host = inventory.host
    virtual = host.virtualization not in (None, "none") and f"virtual machine ({host.virtualization})"
    contained = host.container not in (None, "none") and f"container ({host.container})"
    return ", ".join(word for word in (virtual, contained, host.wsl and "WSL") if word) or None


def _cores(inventory: Inventory) -> str | None:
    cpu = inventory.cpu
    if cpu.physical_cores is None and cpu.logical_cores is None:
        return None
    return f"{cpu.physical_cores or '?'} cores, {cpu.logical_cores or '?'} threads"


def _limits(inventory: Inventory) -> str | None:
    limits = inventory.limits
    memory = limits.memory_bytes is not None and f"memory limited to {size_text(limits.memory_bytes)}"
    high = limits.memory_high_bytes is not None and f"slowed from {size_text(limits.memory_high_bytes)}"
    cpus = limits.cpus is not None and f"{limits.cpus:g} CPUs"
    cpuset = limits.cpuset and f"on CPUs {limits.cpuset}"
    return ", ".join(word for word in (memory, high, cpus, cpuset) if word) or None


def _gpus(inventory: Inventory, sample: Sample) -> Table:
    """All of them, with the instances of those that are divided."""
    table = _table("GPUs", "GPU", "Memory", "Now")
    samples = {gpu.id: gpu for gpu in sample.gpus}
    for gpu in inventory.gpus:
        now = samples.get(gpu.id) or GpuSample(id=gpu.id, state="lost")
        _add_row(table, "\n".join(_gpu_words(gpu, now)), _gpu_memory(gpu, now), _gpu_now(gpu, now))
        used = {instance.id: instance.memory_used_bytes for instance in now.mig}
        for instance in gpu.mig.instances if gpu.mig else ():
            memory = _of(used.get(instance.id), instance.memory_total_bytes)
            _add_row(table, f"  {instance.name or instance.id}", memory or _NOTHING, "")
    return table


def _gpu_words(gpu: GpuInfo, now: GpuSample) -> Iterator[str]:
    """What it is called, and what it works with."""
    yield gpu.name or gpu.vendor
    yield gpu.id
    named = (("driver", gpu.driver_version), ("CUDA", gpu.cuda_version), ("compute", gpu.compute_capability))
    # What a vendor lacks is left out: CUDA of an AMD card, the instruction set of an NVIDIA one.
    words = [f"{name} {word}" for name, word in named if word] + [gpu.gfx_target, _link(gpu, now)]
    if any(words):
        yield _joined(*words)


def _link(gpu: GpuInfo, now: GpuSample) -> str | None:
    """The link now, of what slot and card allow; its generation falls when the GPU idles."""
    if now.pcie_gen is None or now.pcie_width is None:
        return None
    if not gpu.pcie or not gpu.pcie.max_gen or not gpu.pcie.max_width:
        return None
    return f"PCIe {now.pcie_gen} x{now.pcie_width} of {gpu.pcie.max_gen} x{gpu.pcie.max_width}"


def _gpu_memory(gpu: GpuInfo, now: GpuSample) -> str:
    """Both pools, each by itself."""
    own = _joined(_of(now.memory_used_bytes, gpu.memory.total_bytes), gpu.memory.kind)
    if gpu.memory.shared_total_bytes is None:
        return own
    return f"{own}\nshared {_of(now.shared_used_bytes, gpu.memory.shared_total_bytes)}"


def _gpu_now(gpu: GpuInfo, now: GpuSample) -> Text:
    busy = now.utilization_ratio is not None and f"{_percent(now.utilization_ratio)} busy"
    access = (
        now.memory_controller_ratio is not None and f"memory access {_percent(now.memory_controller_ratio)}"
    )
    fan = now.fan_ratio is not None and f"fan {_percent(now.fan_ratio)}"
    # The state comes first, for of a GPU that is lost or asleep there is nothing else.
    state = Text(now.state, style=_STYLES.get(now.state, "yellow"))
    # One line for what it does, one for how it is.
    for words in (
        _joined(busy or None, access or None),
        _joined(_power(gpu, now), _degrees(now.temperature_celsius), fan or None, _clock(now)),
    ):
        if words != _NOTHING:
            state.append(f"\n{words}", style="default")
    if now.throttle_reasons:
        state.append("\nheld back: " + ", ".join(now.throttle_reasons), style="yellow")
    if now.ecc_uncorrected is not None:
        state.append(
            f"\nECC: {now.ecc_uncorrected} uncorrected", style="red" if now.ecc_uncorrected else "dim"
        )
    return state


def _power(gpu: GpuInfo, now: GpuSample) -> str | None:
    if now.power_watts is None:
        return None
    limit = "" if gpu.power_limit_watts is None else f" of {gpu.power_limit_watts:.0f}"
    return f"{now.power_watts:.0f}{limit} W"


def _clock(now: GpuSample) -> str | None:
    return _frequency(now.clocks.graphics_hertz) if now.clocks else None


def _ollama(processes: Iterable[OllamaProcess]) -> Table:
    table = _table("Ollama's processes", "PID", "Role", "CPU", "Memory", "GPU memory")
    for process in processes:
        gpu = ", ".join(size_text(size) for size in process.gpu_memory_bytes.values())
        cores = None if process.cpu_ratio is None else f"{process.cpu_ratio:.2f} cores"
        cells = (str(process.pid), process.role, cores, _size(process.rss_bytes), gpu)
        _add_row(table, *(cell or _NOTHING for cell in cells))
    return table


def _providers(inventory: Inventory) -> Table:
    table = _table("Sources", "Source", "State", "")
    for provider in inventory.providers:
        state = Text(provider.status, style=_STYLES.get(provider.status, "yellow"))
        words = [reason_text(provider.reason)] if provider.reason else []
        if not provider.verified and provider.status != "absent":
            words.append(_NOT_VERIFIED)
        _add_row(table, provider.name, state, "; ".join(words))
    return table


def _missing(inventory: Inventory, sample: Sample) -> Iterator[tuple[str, str, str, str]]:
    """Where, which fields, why, and what to do: of what a person may want to know."""
    places: list[tuple[str, dict[str, str]]] = [
        ("host", inventory.host.unavailable),
        ("CPU", inventory.cpu.unavailable | sample.cpu.unavailable),
        ("memory", inventory.memory.unavailable | sample.memory.unavailable),
        ("limits", inventory.limits.unavailable),
        ("pressure", sample.pressure.unavailable),
        ("disks", sample.disk.unavailable),
        ("network", sample.network.unavailable),
        *(("storage", store.unavailable) for store in inventory.storage),
        *((gpu.name or gpu.id, gpu.unavailable | gpu.memory.unavailable) for gpu in inventory.gpus),
        *((gpu.id, gpu.unavailable) for gpu in sample.gpus if gpu.state != "suspended"),
        *((f"Ollama's {process.role}", process.unavailable) for process in sample.ollama),
    ]
    fields: dict[tuple[str, str, str], list[str]] = {}
    # Fields that are missing for one reason are in one line.
    for place, unavailable in places:
        for field, reason in unavailable.items():
            if reason not in _NOT_SHOWN and not reason.startswith("no_source"):
                fields.setdefault((place, reason, advice(field, reason) or ""), []).append(field)
    for (place, reason, todo), several in fields.items():
        names = list(dict.fromkeys(several))
        many = f"nearly everything ({len(names)} readings)"
        yield place, ", ".join(names) if len(names) < _NEARLY_ALL else many, reason_text(reason), todo


def _gaps(missing: Iterable[tuple[str, str, str, str]]) -> Group:
    """A list, not a table: names of fields are long, and terminals narrow."""
    parts: list[RenderableType] = [Text("Could not be read", style="italic"), Text()]
    for place, names, why, todo in missing:
        parts.append(Padding(Text.assemble((place, "bold"), ": ", names), (0, 0, 0, 2)))
        parts.append(Padding(Text(why, style="dim"), (0, 0, 0, 6)))
        if todo:
            parts.append(Padding(Text(f"→ {todo}"), (0, 0, 0, 6)))
    return Group(*parts)


def _bars(inventory: Inventory, sample: Sample) -> Iterator[Bar]:
    yield "CPU", sample.cpu.utilization_ratio, _cpu_now(sample)
    yield from _memory_bar("Memory", sample.memory.used_bytes, inventory.memory.total_bytes)
    known = {gpu.id: gpu for gpu in inventory.gpus}
    for now in sample.gpus:
        # A GPU that came since the inventory was taken has a bar and no name yet.
        gpu = known.get(now.id) or GpuInfo(id=now.id, vendor="", provider="")
        words = _gpu_now(gpu, now).plain.split("\n")
        # "ok" is left out: beside a bar it says nothing.
        yield gpu.name or gpu.id, now.utilization_ratio, ", ".join(words[now.state == "ok" :])
        yield from _memory_bar("  memory", now.memory_used_bytes, gpu.memory.total_bytes)
        yield from _memory_bar("  shared", now.shared_used_bytes, gpu.memory.shared_total_bytes)


def _memory_bar(name: str, used: int | None, total: int | None) -> Iterator[Bar]:
    if total:
        yield name, None if used is None else used / total, _of(used, total) or _NOTHING


def _table(title: str | None, *headings: str) -> Table:
    table = Table(box=box.SIMPLE, title=title, title_justify="left", show_header=bool(headings))
    for heading in headings:
        # Identifiers and file systems have no spaces: fold them, for an ellipsis hides what tells them apart.
        table.add_column(heading, overflow="fold")
    return table


def _grid(title: str | None, rows: Iterable[Row]) -> Table:
    table = _table(title)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in rows:
        _add_row(table, name, words)
    return table


def _add_row(table: Table, *cells: str | Text) -> None:
    """Add a row; nothing in a cell is taken for markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _joined(*words: str | float | None) -> str:
    """Return those that there are, with commas; a dash when there are none."""
    return ", ".join(str(word) for word in words if word) or _NOTHING


def _named(*values: tuple[str, str | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values if value is not None)


def _size(value: int | None) -> str | None:
    return None if value is None else size_text(value)


def _rate(value: float | None) -> str | None:
    return None if value is None else f"{size_text(round(value))}/s"


def _frequency(value: int | None) -> str | None:
    return None if value is None else f"{value / 1e9:.2f} GHz"


def _percent(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio * 100:.0f} %"


def _degrees(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} °C"


def _of(used: int | None, total: int | None) -> str | None:
    """What is used of a total; None where that is not known."""
    if total is None:
        return None
    return f"{_NOTHING if used is None else size_text(used)} of {size_text(total)}"
