"""What reading the machine costs: ``python -m benchmarks.hardware``.

The sampler in a process of its own, at 1 and 10 samples a second, with 100 and with 1,000 other processes on
the machine, against a loop over psutil as such tools usually have it; and the event loop's lag while a GPU
driver hangs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from obt_agent.config.schema import HardwareConfig
from obt_agent.hardware.gpu.nvidia.nvml import Nvml
from obt_agent.hardware.gpu.nvidia.probe import Prober
from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
from obt_agent.hardware.service import HardwareService
from obt_agent.hardware.snapshot.root import SnapshotRoot
from obt_agent.hardware.supervisor import Timings

ROOT = Path(__file__).parents[1]
NVML = ROOT / "tests" / "hardware" / "nvml"


@dataclass(frozen=True)
class Cost:
    """Of one run: samples, processor seconds of the whole process, wall seconds, resident bytes."""

    samples: int
    cpu_s: float
    wall_s: float
    rss_bytes: int

    @property
    def core_percent(self) -> float:
        """Share of one core."""
        return self.cpu_s / self.wall_s * 100

    @property
    def per_sample_us(self) -> float:
        """Processor time of one sample."""
        return self.cpu_s / max(1, self.samples) * 1e6


async def ours(rate: float, seconds: float) -> Cost:
    """The service, with someone who watches."""
    service = HardwareService(HardwareConfig(min_interval_s=0.05))
    await service.inventory()
    await service.start()
    samples = 0
    async with service.watch(1 / rate, reason="benchmark") as watch:
        await anext(watch)
        measured = measuring()
        until = time.monotonic() + seconds
        async for _ in watch:
            samples += 1
            if time.monotonic() >= until:
                break
        cost = measured(samples)
    await service.close()
    return cost


async def naive(rate: float, seconds: float) -> Cost:
    """CPU, memory, load, temperatures, and every process by name, at each sample."""
    psutil.cpu_percent(percpu=True)
    measured = measuring()
    until = time.monotonic() + seconds
    samples = 0
    while time.monotonic() < until:
        started = time.monotonic()
        naive_sample()
        samples += 1
        await asyncio.sleep(max(0.0, 1 / rate - (time.monotonic() - started)))
    return measured(samples)


def naive_sample() -> None:
    """One round of such a loop."""
    psutil.cpu_percent(percpu=True)
    psutil.virtual_memory()
    psutil.swap_memory()
    psutil.getloadavg()
    psutil.disk_io_counters()
    psutil.net_io_counters()
    psutil.sensors_temperatures()
    for process in psutil.process_iter(["name", "cpu_percent", "memory_info"]):
        if "ollama" in (process.info["name"] or ""):
            process.children(recursive=True)


def measuring() -> Callable[[int], Cost]:
    """Start to count; what is returned tells the cost so far."""
    cpu, wall = time.process_time(), time.monotonic()

    def cost(samples: int) -> Cost:
        rss = psutil.Process().memory_info().rss
        return Cost(samples, time.process_time() - cpu, time.monotonic() - wall, rss)

    return cost


@contextmanager
def crowd(size: int) -> Iterator[None]:
    """Enough sleepers that the machine has this many processes."""
    missing = max(0, size - len(psutil.pids()))
    sleepers = [subprocess.Popen(["/bin/sleep", "1000"]) for _ in range(missing)]
    try:
        yield
    finally:
        for sleeper in sleepers:
            sleeper.kill()
        for sleeper in sleepers:
            sleeper.wait()


def run_apart(kind: str, rate: float, seconds: float) -> Cost:
    """One run in a fresh process, so that one does not pay for another."""
    command = [sys.executable, "-m", "benchmarks.hardware", "--one", kind, str(rate), str(seconds)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=seconds + 120
    )
    return Cost(**json.loads(done.stdout.splitlines()[-1]))  # what comes before is the log


@dataclass(frozen=True)
class Lag:
    """Lateness of a 5 ms timer in milliseconds: mean, 99th percentile, worst."""

    mean_ms: float
    p99_ms: float
    worst_ms: float

    @classmethod
    def of(cls, late_ms: list[float]) -> Self:
        """From how late each turn was."""
        ordered = sorted(late_ms)
        return cls(sum(ordered) / len(ordered), ordered[len(ordered) * 99 // 100], ordered[-1])

    def __str__(self) -> str:
        return f"mean {self.mean_ms:.2f} ms, 99 % under {self.p99_ms:.1f} ms, worst {self.worst_ms:.1f} ms"


async def lag_with_hung_driver(seconds: float) -> tuple[Lag, str]:
    """The event loop's lag while a driver call never returns, and how it ended."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        library = build_driver(folder)
        script = folder / "nvml.txt"
        shutil.copy(NVML / "rtx4090.txt", script)
        root = SnapshotRoot(ROOT / "tests/hardware/snapshots/nvidia-desktop")
        nvidia = NvidiaProvider(root, lambda: Nvml((str(library),)), Prober((str(library),)))
        service = HardwareService(
            HardwareConfig(min_interval_s=0.05),
            providers=[nvidia],
            timings=Timings(gpu_deadline_s=0.5, close_deadline_s=0.5),
        )
        await service.inventory()
        await service.start()
        with script.open("a") as more:
            more.write("* hang:nvmlDeviceGetUtilizationRates 1\n")
        async with service.watch(0.1, reason="benchmark"):
            late = await lateness(seconds)
        state = service.latest.gpus[0].state if service.latest and service.latest.gpus else "absent"
        started = time.monotonic()
        await service.close()
        closed_ms = (time.monotonic() - started) * 1000
        script.unlink()
    return Lag.of(late), f"{state}; closed in {closed_ms:.0f} ms"


async def lateness(seconds: float) -> list[float]:
    """How late each turn of a 5 ms timer was, in milliseconds."""
    late = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        due = time.monotonic() + 0.005
        await asyncio.sleep(0.005)
        late.append((time.monotonic() - due) * 1000)
    return late


def build_driver(folder: Path) -> Path:
    """The driver library of the tests, which hangs when told to."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("the hung driver is a small C library: apt-get install gcc libc6-dev")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(NVML / "fake_nvml.c"), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hardware", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "RATE", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        kind, rate, seconds = arguments.one
        runs = {"ours": ours, "naive": naive}
        print(json.dumps(vars(asyncio.run(runs[kind](float(rate), float(seconds))))))
        return 0
    report(arguments.seconds)
    return 0


def report(seconds: float) -> None:
    """Run everything, and print it."""
    table = Table(
        box=box.SIMPLE, title="Sampling the machine (aim: 0.1 % of a core at 1 Hz)", title_justify="left"
    )
    for heading in ("Processes", "Rate", "Sampler", "CPU per sample", "Share of a core", "RSS"):
        table.add_column(heading, justify="right")
    for size in (100, 1000):
        with crowd(size):
            for rate in (1.0, 10.0):
                for kind, name in (("ours", "obt-agent"), ("naive", "psutil loop")):
                    cost = run_apart(kind, rate, seconds)
                    table.add_row(
                        str(len(psutil.pids())),
                        f"{rate:g} Hz",
                        name,
                        f"{cost.per_sample_us:.0f} us",
                        f"{cost.core_percent:.2f} %",
                        f"{cost.rss_bytes / 2**20:.0f} MiB",
                    )
    console = Console(width=110)
    console.print(table)
    seconds = min(seconds, 5.0)
    alone = Lag.of(asyncio.run(lateness(seconds)))
    hung, state = asyncio.run(lag_with_hung_driver(seconds))
    console.print("Event loop's lag (aim: worst under 20 ms)")
    console.print(f"  with nothing else in the process: {alone}")
    console.print(f"  with a driver call that never returns: {hung}; GPU {state}")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"  {os.cpu_count()} CPUs; load {load}: what the first line has too is the machine's own")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
