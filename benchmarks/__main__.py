"""``python -m benchmarks [--quick] [SECTION ...]``: measure the agent itself. Printed, never asserted.

throughput   (a) CPU for each token at saturation, beside loops that only forward
latency      (b) what a token's way through agent and server adds, beside ``ssh -R``
idle         (c) memory, CPU and start of an agent with nothing to do
streams      (d) 64 streams at once: memory, fairness, CPU
fleet        (e) a server with 1,000 agents: with 200 viewers, idle, and their return after its restart
gateway      (f) the first chunk through the gateway, beside a direct read
console      the page in Chromium with 500 machines and 5,000 results
hardware     what reading the machine costs
accuracy     metrics beside the stand-in's own log
perturbation what sampling costs the work beside it
nights       false alarms and missed slowdowns of verdicts on simulated nights
replicas     (g) one server process and three; only when it is named, since it needs PostgreSQL and NATS
bus          a question between two processes over NATS and Redis; only when it is named
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from importlib import metadata

from benchmarks.processes import end_on_sigterm

SECTIONS = (
    "throughput",
    "latency",
    "idle",
    "streams",
    "fleet",
    "gateway",
    "console",
    "hardware",
    "accuracy",
    "perturbation",
    "nights",
)
APART = ("replicas", "bus", "stages")
"""Measured when they are named."""
QUICK = {
    "hardware": ["--seconds", "2"],
    "accuracy": ["--iterations", "1"],
    "perturbation": ["--pairs", "2", "--most", "2"],
    "nights": ["--campaigns", "100", "--slow", "5"],
}
LIBRARIES = ("aiohttp", "websockets", "msgspec", "uvloop")


def machine() -> str:
    """One line that says where the figures come from."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, {_cpu()}, {os.cpu_count()} CPUs, "
        f"load {load}; Python {platform.python_version()}, {versions}"
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - read line by line, once
            return next(line.partition(": ")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown CPU"


def main(argv: list[str]) -> int:
    """Run the sections that were named, or all; 1 when one could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="all unless named")
    parser.add_argument("--quick", action="store_true", help="short runs: the figures scatter more")
    arguments = parser.parse_args(argv)
    if unknown := sorted(set(arguments.sections) - {*SECTIONS, *APART}):
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join((*SECTIONS, *APART))}")
    end_on_sigterm()
    print(machine())
    failed = []
    for name in arguments.sections or SECTIONS:
        started = time.monotonic()
        print(f"\n== {name}", flush=True)
        if _section(name, quick=arguments.quick) != 0:
            failed.append(name)
        print(f"({name}: {time.monotonic() - started:.0f} s)", flush=True)
    if failed:
        print(f"not measured, or off: {', '.join(failed)}")
    return 1 if failed else 0


def _section(name: str, *, quick: bool) -> int:
    """One section's exit status; what goes wrong in it does not take the others along."""
    options = QUICK.get(name, ["--quick"]) if quick else []
    try:
        status: int = importlib.import_module(f"benchmarks.{name}").main(options)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the other sections are still worth their time
        print(f"{name} could not be measured: {error!r}")
        return 1
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
