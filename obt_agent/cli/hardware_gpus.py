"""GPUs as ``obt-agent hardware`` shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from obt_agent.cli import hardware_words as shown
from obt_agent.hardware.inventory import GpuInfo, Inventory
from obt_agent.hardware.samples import GpuSample, Sample


def gpus(inventory: Inventory, sample: Sample) -> Table:
    """All of them, with the instances of those that are divided."""
    table = shown.table("GPUs", "GPU", "Memory", "Busy", "Power", "Temperature", "State")
    samples = {gpu.id: gpu for gpu in sample.gpus}
    for gpu in inventory.gpus:
        now = samples.get(gpu.id) or GpuSample(id=gpu.id, state="lost")
        shown.row(
            table,
            "\n".join(_gpu_words(gpu, now)),
            _gpu_memory(gpu, now),
            shown.percent(now.utilization_ratio) or shown.NOTHING,
            shown.watts(now.power_watts) or shown.NOTHING,
            shown.degrees(now.temperature_celsius) or shown.NOTHING,
            _gpu_state(now),
        )
        for instance, memory in _instances(gpu, now):
            shown.row(table, f"  {instance}", memory, *[shown.NOTHING] * 3, "")
    return table


def _gpu_words(gpu: GpuInfo, now: GpuSample) -> Iterator[str]:
    """What it is called, and what it works with."""
    yield gpu.name or gpu.vendor
    yield gpu.id
    named = (("driver", gpu.driver_version), ("CUDA", gpu.cuda_version), ("compute", gpu.compute_capability))
    words = [f"{name} {word}" for name, word in named if word] + [gpu.gfx_target, _link(gpu, now)]
    known = [word for word in words if word]
    if known:
        yield ", ".join(known)


def _link(gpu: GpuInfo, now: GpuSample) -> str | None:
    """The link now, of what slot and card allow; its generation falls when the GPU idles."""
    most = gpu.pcie and gpu.pcie.max_gen and gpu.pcie.max_width and (gpu.pcie.max_gen, gpu.pcie.max_width)
    if not most or now.pcie_gen is None or now.pcie_width is None:
        return None
    return f"PCIe {now.pcie_gen} x{now.pcie_width} of {most[0]} x{most[1]}"


def _gpu_state(now: GpuSample) -> Text:
    state = Text(now.state, style=shown.WELL.get(now.state, "yellow"))
    if now.throttle_reasons:
        state.append("\nheld back: " + ", ".join(now.throttle_reasons), style="yellow")
    return state


def _instances(gpu: GpuInfo, now: GpuSample) -> Iterator[tuple[str, str]]:
    """MIG instances, and the memory of each."""
    used = {instance.id: instance.memory_used_bytes for instance in now.mig}
    for instance in gpu.mig.instances if gpu.mig else ():
        yield (
            instance.name or instance.id,
            shown.of(used.get(instance.id), instance.memory_total_bytes) or shown.NOTHING,
        )


def _gpu_memory(gpu: GpuInfo, now: GpuSample) -> str:
    """Both pools, each by itself."""
    own = shown.joined(shown.of(now.memory_used_bytes, gpu.memory.total_bytes), gpu.memory.kind)
    if gpu.memory.shared_total_bytes is None:
        return own
    return f"{own}\nshared {shown.of(now.shared_used_bytes, gpu.memory.shared_total_bytes) or shown.NOTHING}"
