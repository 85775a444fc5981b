"""Hold the agent's readings of NVIDIA GPUs against nvidia-smi, field by field.

``python -m obt_agent.hardware.compare_nvidia_smi [--seconds 10]`` prints a table and the energy counter
against power integrated over the time. Run it idle, and again while a model answers; send in what it prints.
Exit status 0: all agree; 1: something does not; 69: no nvidia-smi, or no GPU.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from obt_agent.hardware.providers.base import CostGroup, GpuProvider
from obt_agent.hardware.providers.nvidia import NvidiaProvider
from obt_agent.hardware.providers.nvml import Nvml
from obt_agent.hardware.providers.nvml_probe import Prober
from obt_agent.hardware.providers.pci import normalised
from obt_agent.hardware.root import Root
from obt_agent.hardware.schema import GpuInfo, GpuSample

_UNAVAILABLE = 69
_MIB = 1 << 20
_ENERGY_TOLERANCE = 0.05
_PERIOD_S = 0.1
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Field:
    """One of nvidia-smi's columns, and ours in its unit.

    ``tolerance`` is how far they may be apart, for the two do not read at the same moment.
    """

    column: str
    ours: Callable[[GpuInfo, GpuSample], float | str | None]
    tolerance: float = 0.0


def _ratio(value: float | None) -> float | None:
    return None if value is None else value * 100


def _mebibytes(value: int | None) -> float | None:
    return None if value is None else value / _MIB


def _megahertz(value: int | None) -> float | None:
    return None if value is None else value / 1e6


FIELDS = (
    Field("name", lambda info, _: info.name),
    Field("pci.bus_id", lambda info, _: info.pci_address),
    Field("driver_version", lambda info, _: info.driver_version),
    Field("vbios_version", lambda info, _: info.vbios_version),
    Field("compute_cap", lambda info, _: info.compute_capability),
    Field("memory.total", lambda info, _: _mebibytes(info.memory.total_bytes), 1),
    Field("memory.reserved", lambda info, _: _mebibytes(info.memory.reserved_bytes), 1),
    Field("memory.used", lambda _, now: _mebibytes(now.memory_used_bytes), 256),
    Field("utilization.gpu", lambda _, now: _ratio(now.utilization_ratio), 25),
    Field("utilization.memory", lambda _, now: _ratio(now.memory_controller_ratio), 25),
    Field("temperature.gpu", lambda _, now: now.temperature_celsius, 3),
    Field("power.draw.instant", lambda _, now: now.power_watts, 60),
    Field("enforced.power.limit", lambda info, _: info.power_limit_watts, 0.01),
    Field("clocks.sm", lambda _, now: _megahertz(now.clocks.sm_hertz if now.clocks else None), 300),
    Field("clocks.mem", lambda _, now: _megahertz(now.clocks.memory_hertz if now.clocks else None), 100),
    Field("fan.speed", lambda _, now: _ratio(now.fan_ratio), 10),
    Field("pcie.link.gen.max", lambda info, _: info.pcie.max_gen if info.pcie else None),
    Field("pcie.link.width.max", lambda info, _: info.pcie.max_width if info.pcie else None),
    Field("pcie.link.width.current", lambda _, now: now.pcie_width),
)


@dataclass(frozen=True)
class Row:
    """One comparison."""

    gpu: str
    field: str
    ours: str
    theirs: str
    agrees: bool


def ask_smi(program: str) -> dict[str, dict[str, str]]:
    """What nvidia-smi says, by UUID and column.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be run, or fails.
    """
    columns = ["uuid", *(field.column for field in FIELDS)]
    command = [program, f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(  # noqa: S603 -- the user's own nvidia-smi, found in PATH
        command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
    )
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows if row}


def compare(info: GpuInfo, now: GpuSample, theirs: dict[str, str]) -> Iterator[Row]:
    """Each field of one GPU. Both saying that there is no value counts as agreement."""
    for field in FIELDS:
        our, their = field.ours(info, now), _value(theirs[field.column])
        yield Row(info.id, field.column, _shown(our), _shown(their), _agree(our, their, field.tolerance))


def _value(text: str) -> float | str | None:
    if text.startswith("["):  # [N/A], [Not Supported], [Unknown Error]
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _shown(value: float | str | None) -> str:
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _agree(ours: float | str | None, theirs: float | str | None, tolerance: float) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    try:
        return abs(float(ours) - float(theirs)) <= tolerance
    except ValueError:
        return _plain(str(ours)) == _plain(str(theirs))


def _plain(word: str) -> str:
    """A PCI address as the kernel writes it; the tool pads the domain, in capitals."""
    try:
        return normalised(word)
    except ValueError:
        return word


def energy_ratios(provider: GpuProvider, seconds: float) -> dict[str, float]:
    """By GPU id: the energy counter's increase over power integrated by trapezoids; 1 is agreement."""
    before = provider.energy()
    series: dict[str, list[tuple[float, float]]] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for gpu in provider.sample(CostGroup.FAST).gpus:
            if gpu.power_watts is not None and gpu.t_mono_ns is not None:
                series.setdefault(gpu.id, []).append((gpu.t_mono_ns / 1e9, gpu.power_watts))
        time.sleep(_PERIOD_S)
    after = provider.energy()
    integrated = {gpu: _integral(points) for gpu, points in series.items()}
    return {
        gpu: (after[gpu] - before[gpu]) / integrated[gpu]
        for gpu in before
        if gpu in after and integrated.get(gpu, 0) > 0
    }


def _integral(points: list[tuple[float, float]]) -> float:
    pairs = pairwise(points)
    return sum((t1 - t0) * (p0 + p1) / 2 for (t0, p0), (t1, p1) in pairs)


def report(rows: Iterable[Row], ratios: dict[str, float]) -> Iterator[str]:
    """The lines to print."""
    yield f"{'field':26} {'obt-agent':>26} {'nvidia-smi':>26}"
    gpu = ""
    for row in rows:
        if row.gpu != gpu:
            gpu = row.gpu
            yield gpu
        yield f"{row.field:26} {row.ours:>26} {row.theirs:>26}{'' if row.agrees else '   DIFFERS'}"
    for name, ratio in ratios.items():
        verdict = "" if abs(ratio - 1) <= _ENERGY_TOLERANCE else "   DIFFERS by more than 5 %"
        yield f"{name}: energy counter / integrated power = {ratio:.3f}{verdict}"


def main(argv: list[str], provider: GpuProvider | None = None) -> int:
    """Compare, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="over which energy is compared (10)")
    arguments = parser.parse_args(argv)
    say = partial(print, flush=True)
    program = shutil.which("nvidia-smi")
    if program is None:
        say("nvidia-smi is not in PATH: nothing to compare with")
        return _UNAVAILABLE
    nvidia = provider or NvidiaProvider(Root(), Nvml, Prober())
    state = nvidia.probe()
    infos = nvidia.inventory()
    if state.status != "ok" or not infos:
        say(f"no NVIDIA GPU can be read: {state.reason}")
        return _UNAVAILABLE
    try:
        return _compare_all(nvidia, infos, program, arguments.seconds, say)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        say(f"{Path(program).name} cannot be used: {error}")
        return _UNAVAILABLE
    finally:
        nvidia.close()


def _compare_all(
    nvidia: GpuProvider, infos: tuple[GpuInfo, ...], program: str, seconds: float, say: Callable[[str], None]
) -> int:
    theirs = ask_smi(program)
    samples = {gpu.id: gpu for gpu in nvidia.sample(CostGroup.FAST | CostGroup.SLOW).gpus}
    missing = set(theirs) ^ {info.id for info in infos}
    rows = [
        row for info in infos if info.id in theirs for row in compare(info, samples[info.id], theirs[info.id])
    ]
    ratios = energy_ratios(nvidia, seconds)
    for line in report(rows, ratios):
        say(line)
    if missing:
        say(f"seen by one of the two alone: {', '.join(sorted(missing))}")
    off = any(abs(ratio - 1) > _ENERGY_TOLERANCE for ratio in ratios.values())
    return int(off or bool(missing) or not all(row.agrees for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
