"""Hold the agent's readings of NVIDIA GPUs against nvidia-smi, field by field.

``python -m obt_agent.hardware.gpu.nvidia.compare_nvidia_smi [--seconds 10]`` prints a table and the energy
counter against power integrated over the time. Run it idle, and again while a model answers; send in what
it prints. Exit status 0: all agree; 1: something does not; 69: no nvidia-smi, or no GPU.

The two programs cannot read at one moment. So the agent's readings are taken again and again while nvidia-smi
runs, and its number must lie within their range, widened by each field's tolerance.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

from obt_agent.hardware.gpu.nvidia.nvidia_smi import FIELDS, Field, NvidiaSmi, agrees, value
from obt_agent.hardware.gpu.nvidia.nvml import Nvml
from obt_agent.hardware.gpu.nvidia.probe import Prober
from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
from obt_agent.hardware.inventory import GpuInfo
from obt_agent.hardware.provider import CostGroup, GpuProvider, GpuReadings
from obt_agent.hardware.samples import GpuSample
from obt_agent.hardware.snapshot.root import Root

_UNAVAILABLE = 69
_ENERGY_TOLERANCE = 0.05
_PERIOD_S = 0.1
_BOTH = CostGroup.FAST | CostGroup.SLOW
_WSL = "/usr/lib/wsl/lib/nvidia-smi"


class ComparisonRow:
    """One comparison, as it is printed."""

    def __init__(self, name: str, ours: Iterable[float | str | None], theirs: float | str | None) -> None:
        self.name = name
        self.ours = _range(list(ours))
        self.theirs = _shown(theirs)
        self.agrees = True

    def __str__(self) -> str:
        return f"{self.name:38} {self.ours:>26} {self.theirs:>26}{'' if self.agrees else '   DIFFERS'}"


def compare(info: GpuInfo, readings: list[GpuSample], theirs: dict[str, str]) -> Iterator[ComparisonRow]:
    """Each field of one GPU that this nvidia-smi knows. Both saying that there is no value is agreement."""
    for field in FIELDS:
        column = _column(field, theirs)
        if column is not None:
            ours = [field.ours(info, now) for now in readings]
            their = field.theirs(value(theirs[column]))
            row = ComparisonRow(column, ours, their)
            row.agrees = agrees(ours, their, field.tolerance)
            yield row


def _column(field: Field, theirs: dict[str, str]) -> str | None:
    """The first of the field's columns that has a value; else the first that is known at all."""
    known = [column for column in field.columns if column in theirs]
    return next((column for column in known if value(theirs[column]) is not None), next(iter(known), None))


def compare_processes(
    gpu: str, readings: list[GpuReadings], theirs: dict[int, float | None]
) -> Iterator[ComparisonRow]:
    """MiB of each process that nvidia-smi names on a GPU, and of those that the agent alone names."""
    by_pid: dict[int, list[float | str | None]] = {pid: [] for pid in theirs}
    for reading in readings:
        for pid, used in reading.process_memory.items():
            if gpu in used:
                by_pid.setdefault(pid, []).append(used[gpu] / (1 << 20))
    for pid, ours in sorted(by_pid.items()):
        row = ComparisonRow(f"memory of process {pid}", ours or [None], theirs.get(pid))
        # A process may end, or begin, while both read: only one that both saw throughout is compared.
        lasted = pid in theirs and bool(ours)
        row.agrees = agrees(ours, theirs[pid], 256) if lasted else len(ours) < len(readings)
        yield row


def _shown(value: float | str | None) -> str:
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _range(values: list[float | str | None]) -> str:
    """What was read: one value, or the least and the most."""
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values) and len(set(numbers)) > 1:
        return f"{min(numbers):.6g} .. {max(numbers):.6g}"
    return " / ".join(dict.fromkeys(map(_shown, values)))


def energy_ratios(provider: GpuProvider, seconds: float) -> dict[str, float]:
    """By GPU id: mean power by the energy counter over mean power by its readings; 1 is agreement.

    Both means are of nearly the same time, so that what lies between their edges does not count.
    """
    began, before = time.monotonic(), provider.energy()
    series: dict[str, list[tuple[float, float]]] = {}
    while True:
        for gpu in provider.sample(CostGroup.FAST).gpus:
            if gpu.power_watts is not None and gpu.t_mono_ns is not None:
                series.setdefault(gpu.id, []).append((gpu.t_mono_ns / 1e9, gpu.power_watts))
        if time.monotonic() >= began + seconds:
            break
        time.sleep(_PERIOD_S)
    took, after = time.monotonic() - began, provider.energy()
    means = {gpu: _mean(points) for gpu, points in series.items()}
    return {
        gpu: (after[gpu] - before[gpu]) / took / mean
        for gpu, mean in means.items()
        if gpu in before and gpu in after and mean > 0
    }


def _mean(points: list[tuple[float, float]]) -> float:
    """By trapezoids; 0 where there are too few points."""
    area = sum((t1 - t0) * (p0 + p1) / 2 for (t0, p0), (t1, p1) in pairwise(points))
    return area / (points[-1][0] - points[0][0]) if len(points) > 1 else 0.0


def main(argv: list[str], provider: GpuProvider | None = None) -> int:
    """Compare, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="over which energy is compared (10)")
    arguments = parser.parse_args(argv)
    write = partial(print, flush=True)
    # Under WSL the tool lies outside of the usual path.
    program = shutil.which("nvidia-smi") or shutil.which(_WSL)
    if program is None:
        write("nvidia-smi is not in PATH: nothing to compare with")
        return _UNAVAILABLE
    nvidia = provider or NvidiaProvider(Root(), Nvml, Prober())
    state = nvidia.probe()
    if state.status not in ("ok", "lost") or not nvidia.inventory():
        write(f"no NVIDIA GPU can be read: {state.reason}")
        return _UNAVAILABLE
    try:
        return int(not _compare_all(nvidia, NvidiaSmi(program), arguments.seconds, write))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        write(f"{Path(program).name} cannot be used: {error}")
        return _UNAVAILABLE
    finally:
        nvidia.close()


def _compare_all(nvidia: GpuProvider, smi: NvidiaSmi, seconds: float, write: Callable[[str], None]) -> bool:
    readings: list[GpuReadings] = []
    theirs = smi.gpus(lambda: readings.append(nvidia.sample(_BOTH)))
    apps = smi.processes(lambda: readings.append(nvidia.sample(_BOTH)))
    for column in smi.unknown_columns:
        write(f"this nvidia-smi does not know {column}: not compared")
    write(f"{'field':38} {'obt-agent':>26} {'nvidia-smi':>26}")
    verdicts = []
    for info in nvidia.inventory():
        write(info.id)
        verdicts.append(_compare_one(info, readings, theirs.pop(info.id, None), apps.get(info.id, {}), write))
    for gpu in theirs:
        write(f"{gpu}\n  seen by nvidia-smi alone")
        verdicts.append(False)
    verdicts += [_write_energy(gpu, ratio, write) for gpu, ratio in energy_ratios(nvidia, seconds).items()]
    write("All agree." if all(verdicts) else "Not all agree: see above.")
    return all(verdicts)


def _compare_one(
    info: GpuInfo,
    readings: list[GpuReadings],
    theirs: dict[str, str] | None,
    apps: dict[int, float | None],
    write: Callable[[str], None],
) -> bool:
    samples = [gpu for reading in readings for gpu in reading.gpus if gpu.id == info.id]
    if theirs is None:
        write(f"  seen by obt-agent alone, as {samples[-1].state if samples else 'lost'}")
        return False
    rows = list(compare(info, samples, theirs))
    if not (info.mig and info.mig.enabled):  # there nvidia-smi names processes by the instance
        rows += compare_processes(info.id, readings, apps)
    for row in rows:
        write(str(row))
    return all(row.agrees for row in rows)


def _write_energy(gpu: str, ratio: float, write: Callable[[str], None]) -> bool:
    fits = abs(ratio - 1) <= _ENERGY_TOLERANCE
    verdict = "" if fits else "   DIFFERS by more than 5 %"
    write(f"{gpu}: energy counter / integrated power = {ratio:.3f}{verdict}")
    return fits


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
