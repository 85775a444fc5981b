"""Apple's GPUs through the programs of macOS. Not verified on hardware: no Mac was available to the project.

The GPU has no memory of its own. What is allocated for it of the system's is what a loaded model takes;
"In use system memory" falls to little when no program computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded
from obt_agent.hardware.gpu.apple import tools
from obt_agent.hardware.gpu.apple.tools import Accelerator, RunTool
from obt_agent.hardware.gpu.readings import merged
from obt_agent.hardware.inventory import GpuInfo, GpuMemory, ProviderState
from obt_agent.hardware.provider import CostGroup, GpuReadings, state_of
from obt_agent.hardware.samples import GpuClocks, GpuSample
from obt_agent.system import owners

NAME, PCI_VENDOR = "apple", "0x106b"

_NO_SOURCE: Final = "no_source"
_UNIFIED: Final = "unified_memory"
_LOST: Final = "lost"
_ROOT_ONLY: Final = "no_permission: macOS tells power and clocks to root alone"
# The registry is a process to start: within this time the last answer counts.
_FRESH_S: Final = 1.0


class AppleProvider:
    """The GPUs of Apple's processors.

    Args:
        run: runs a program and gives its output.
        memory_bytes: the system's memory, of which the GPU has its own.
    """

    name = NAME

    def __init__(self, run: RunTool, memory_bytes: Callable[[], int]) -> None:
        self._run = run
        self._memory_bytes = memory_bytes
        # As of the last probe: what is described, and sampled.
        self._described: tuple[Accelerator, ...] = ()
        # The last answer of the registry, and when it came (monotonic seconds).
        self._listed: tuple[Accelerator, ...] = ()
        self._asked_at = float("-inf")
        # Power and clock as they were last read, in a sample that has nothing else.
        self._power = _without_power(_ROOT_ONLY)

    def probe(self) -> ProviderState:
        """Ask the registry again."""
        self.close()
        fields = FieldReader()
        found = fields.read("gpus", self._accelerators)
        self._described = found or ()
        if found is None:
            return ProviderState(name=NAME, status="degraded", reason=fields.reasons["gpus"])
        if not found:
            return ProviderState(name=NAME, status="absent", reason=f"no GPU of this vendor ({NAME})")
        return state_of(NAME, None, verified=False)

    def inventory(self) -> tuple[GpuInfo, ...]:
        """Describe them."""
        return tuple(self._describe(gpu) for gpu in self._described)

    def sample(self, group: CostGroup) -> GpuReadings:
        """Read what they do now."""
        # A program that measures for 200 ms: not at every tick.
        if CostGroup.SLOW in group:
            self._power = self._read_power()
        fields = FieldReader()
        found = fields.read("gpus", self._accelerators)
        gone = fields.reasons.get("gpus", _LOST)
        # One that was described and is not listed any more is lost, and says so.
        now = {gpu.driver: gpu for gpu in found or ()}
        return GpuReadings(
            tuple(self._sample(gpu.driver, now.get(gpu.driver), gone) for gpu in self._described)
        )

    def energy(self) -> dict[str, float]:
        """Return nothing: there is no counter of energy."""
        return {}

    def follow(self, pids: tuple[int, ...]) -> None:
        """Do nothing: memory is not told by process."""

    def close(self) -> None:
        """Forget the last answer."""
        self._asked_at = float("-inf")

    def _accelerators(self) -> tuple[Accelerator, ...]:
        now = time.monotonic()
        if now - self._asked_at >= _FRESH_S:
            self._listed = tuple(tools.accelerators(self._run(tools.IOREG)))
            self._asked_at = now
        return self._listed

    def _describe(self, gpu: Accelerator) -> GpuInfo:
        fields = FieldReader()
        for field in ("uuid", "driver_version", "power_limit_watts"):
            fields.note(field, _NO_SOURCE)
        # The GPU's own object says why there is no memory of its own.
        memory = FieldReader()
        memory.note("total_bytes", _UNIFIED)
        memory.note("bus_width_bits", _NO_SOURCE)
        memory.note("type", _NO_SOURCE)
        return GpuInfo(
            # A processor has one GPU, and its driver's class does not change with a boot.
            id=gpu.driver,
            vendor=NAME,
            provider=NAME,
            name=fields.read("name", lambda: bounded(gpu.words("model"))),
            integrated=True,
            backend="metal",
            driver=gpu.driver,
            shader_cores=fields.read("shader_cores", partial(gpu.number, "gpu-core-count")),
            memory=GpuMemory(
                kind="unified",
                shared_total_bytes=memory.read("shared_total_bytes", self._memory_bytes),
                unavailable=memory.reasons,
            ),
            unavailable=fields.reasons,
        )

    def _sample(self, gpu_id: str, gpu: Accelerator | None, gone: str) -> GpuSample:
        fields = FieldReader()
        for field in ("memory_controller_ratio", "temperature_celsius"):
            fields.note(field, _NO_SOURCE)
        fields.note("memory_used_bytes", _UNIFIED)
        used = fields.read("shared_used_bytes", lambda: _given(gpu, gone).number("Alloc system memory"))
        busy = fields.read("utilization_ratio", lambda: _ratio(_given(gpu, gone)))
        fast = GpuSample(
            id=gpu_id,
            state="ok",
            t_mono_ns=time.monotonic_ns(),
            utilization_ratio=busy,
            shared_used_bytes=used,
            power_watts=self._power.power_watts,
            clocks=self._power.clocks,
            unavailable=fields.reasons | self._power.unavailable,
        )
        sample = merged(fast, _RARELY_READ)
        return msgspec.structs.replace(sample, state="lost") if gpu is None and gone == _LOST else sample

    def _read_power(self) -> GpuSample:
        if not owners.is_root():
            return _without_power(_ROOT_ONLY)
        fields = FieldReader()
        text = fields.read("power_watts", partial(self._run, tools.POWERMETRICS))
        if text is None:
            return _without_power(fields.reasons["power_watts"])
        hertz = fields.read("clocks", partial(tools.clock_hertz, text))
        return GpuSample(
            id="",
            state="ok",
            power_watts=fields.read("power_watts", partial(tools.power_watts, text)),
            clocks=None if hertz is None else GpuClocks(graphics_hertz=hertz),
            unavailable=fields.reasons,
        )


# What the system tells of no GPU of Apple's.
_RARELY_READ: Final = GpuSample(
    id="",
    state="ok",
    unavailable=dict.fromkeys(
        (
            *("energy_joules_total", "others_ratio", "throttle_reasons", "fan_ratio"),
            *("pcie_gen", "pcie_width", "ecc_uncorrected"),
        ),
        _NO_SOURCE,
    ),
)


def _without_power(reason: str) -> GpuSample:
    return GpuSample(id="", state="ok", unavailable={"power_watts": reason, "clocks": reason})


def _given(gpu: Accelerator | None, gone: str) -> Accelerator:
    if gpu is None:
        raise Unreadable(gone)
    return gpu


def _ratio(gpu: Accelerator) -> float:
    percent = gpu.number("Device Utilization %")
    if percent > 100:  # noqa: PLR2004 - per cent
        raise Unreadable("malformed")
    return percent / 100
