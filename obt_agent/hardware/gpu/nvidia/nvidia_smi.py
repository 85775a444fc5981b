"""nvidia-smi as the comparison with it asks it: its columns, and what it writes for no value."""

from __future__ import annotations

import csv
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from obt_agent.hardware.gpu.nvidia.throttling import throttle_reasons
from obt_agent.hardware.host.linux.pci import normalised
from obt_agent.hardware.inventory import GpuInfo
from obt_agent.hardware.samples import GpuSample

Value = float | str | None

_MIB = 1 << 20
_PERIOD_S = 0.1
_TIMEOUT_S = 60
_UNKNOWN_FIELD = re.compile(r'"([\w.]+)" is not a valid field')
# [N/A], [Not Supported], [Unknown Error], [Insufficient Permissions], [GPU requires reset] and the like.
_NO_VALUE = re.compile(
    r"\[.*\]|N/A|ERR!|Unknown Error|Not Supported|Requested functionality has been deprecated", re.IGNORECASE
)


def _same(theirs: Value) -> Value:
    return theirs


@dataclass(frozen=True)
class Field:
    """A reading, and nvidia-smi's columns for it: newer name or better reading first.

    ``tolerance`` is how far theirs may be outside of the range of ours; ``theirs`` makes it comparable.
    """

    columns: tuple[str, ...]
    ours: Callable[[GpuInfo, GpuSample], Value]
    tolerance: float = 0.0
    theirs: Callable[[Value], Value] = _same


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else value * factor


def _megahertz(hertz: int | None) -> float | None:
    return _times(1e-6, hertz)


def _mib(value: int | None) -> float | None:
    return _times(1 / _MIB, value)


def _mig(info: GpuInfo, _now: GpuSample) -> str | None:
    return None if info.mig is None else "Enabled" if info.mig.enabled else "Disabled"


def _reasons(_info: GpuInfo, now: GpuSample) -> str | None:
    return None if now.throttle_reasons is None else " ".join(now.throttle_reasons) or "not throttled"


def _of_mask(theirs: Value) -> Value:
    """A mask in hexadecimal; its bit for an idle GPU is no throttling."""
    if theirs is None:
        return None
    mask = int(str(theirs), 16)
    return " ".join(throttle_reasons(mask)) or "not throttled"


FIELDS = (
    Field(("index",), lambda info, _: info.index),
    Field(("name",), lambda info, _: info.name),
    Field(("pci.bus_id",), lambda info, _: info.pci_address),
    Field(("driver_version",), lambda info, _: info.driver_version),
    Field(("vbios_version",), lambda info, _: info.vbios_version),
    Field(("compute_cap",), lambda info, _: info.compute_capability),
    Field(("mig.mode.current",), _mig),
    Field(("memory.total",), lambda info, _: _mib(info.memory.total_bytes), 1),
    Field(("memory.reserved",), lambda info, _: _mib(info.memory.reserved_bytes), 1),
    Field(("memory.used",), lambda _, now: _mib(now.memory_used_bytes), 64),
    Field(("utilization.gpu",), lambda _, now: _times(100, now.utilization_ratio), 15),
    Field(("utilization.memory",), lambda _, now: _times(100, now.memory_controller_ratio), 15),
    Field(("temperature.gpu",), lambda _, now: now.temperature_celsius, 2),
    Field(("power.draw.instant", "power.draw"), lambda _, now: now.power_watts, 30),
    Field(("enforced.power.limit",), lambda info, _: info.power_limit_watts, 0.01),
    Field(("clocks.gr",), lambda _, now: _megahertz(now.clocks.graphics_hertz if now.clocks else None), 150),
    Field(("clocks.sm",), lambda _, now: _megahertz(now.clocks.sm_hertz if now.clocks else None), 150),
    Field(("clocks.mem",), lambda _, now: _megahertz(now.clocks.memory_hertz if now.clocks else None), 100),
    Field(("clocks_event_reasons.active", "clocks_throttle_reasons.active"), _reasons, theirs=_of_mask),
    Field(("fan.speed",), lambda _, now: _times(100, now.fan_ratio), 5),
    Field(("pcie.link.gen.max",), lambda info, _: info.pcie.max_gen if info.pcie else None),
    Field(("pcie.link.width.max",), lambda info, _: info.pcie.max_width if info.pcie else None),
    Field(("pcie.link.width.current",), lambda _, now: now.pcie_width),
    Field(("ecc.errors.uncorrected.volatile.total",), lambda _, now: now.ecc_uncorrected),
)
"""The link's generation now is left out: it changes because it is asked for."""


def value(text: str) -> Value:
    """A cell: a number, words, or None for one of its marks that there is none."""
    text = text.strip()
    if not text or _NO_VALUE.fullmatch(text):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def agrees(ours: list[Value], theirs: Value, tolerance: float) -> bool:
    """Whether theirs is among ours, or, as a number, in their range widened by the tolerance."""
    known = [our for our in ours if our is not None]
    if theirs is None or not known:
        return theirs is None and len(known) < len(ours)
    try:
        numbers = [float(our) for our in known]
        return min(numbers) - tolerance <= float(theirs) <= max(numbers) + tolerance
    except ValueError:
        return _plain(str(theirs)) in {_plain(str(our)) for our in known}


def _plain(word: str) -> str:
    """A PCI address as the kernel writes it; the tool pads the domain, in capitals."""
    try:
        return normalised(word)
    except ValueError:
        return word


class NvidiaSmi:
    """The program. ``unknown_columns`` are those that this one, older or newer, does not know.

    Everything raises OSError, subprocess.SubprocessError or ValueError where it cannot be run, or fails.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self.unknown_columns: list[str] = []

    def gpus(self, meanwhile: Callable[[], None]) -> dict[str, dict[str, str]]:
        """Cells by UUID and column. One column that it does not know fails the whole: ask without."""
        while True:
            wanted = [
                column for field in FIELDS for column in field.columns if column not in self.unknown_columns
            ]
            columns = ["uuid", *wanted]
            status, output = self._run(f"--query-gpu={','.join(columns)}", meanwhile)
            unknown = _UNKNOWN_FIELD.search(output)
            if status != 0 and unknown is not None and unknown[1] in wanted:
                self.unknown_columns.append(unknown[1])
                continue
            return {row[0]: dict(zip(columns, row, strict=True)) for row in self._rows(status, output)}

    def processes(self, meanwhile: Callable[[], None]) -> dict[str, dict[int, float | None]]:
        """MiB of programs that compute, by GPU's UUID and PID; none where it gives no size."""
        status, output = self._run("--query-compute-apps=gpu_uuid,pid,used_gpu_memory", meanwhile)
        found: dict[str, dict[int, float | None]] = {}
        # Where no program runs, some versions print a sentence in place of rows.
        rows = [row for row in self._rows(status, output) if len(row) == len(("gpu", "pid", "used"))]
        for gpu, pid, used in (row for row in rows if row[1].isdigit()):
            size = value(used)
            found.setdefault(gpu, {})[int(pid)] = size if isinstance(size, float) else None
        return found

    def _rows(self, status: int, output: str) -> list[list[str]]:
        if status != 0:
            raise ValueError(f"it ended with status {status}: {output.strip() or 'and no output'}")
        return [row for row in csv.reader(output.splitlines(), skipinitialspace=True) if row]

    def _run(self, query: str, meanwhile: Callable[[], None]) -> tuple[int, str]:
        """Run it, calling ``meanwhile`` before, again and again while it runs, and after."""
        command = [self._program, query, "--format=csv,noheader,nounits"]
        until = time.monotonic() + _TIMEOUT_S
        meanwhile()
        with subprocess.Popen(  # noqa: S603 -- the user's own nvidia-smi, found in PATH
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            while (output := _waited(process)) is None:
                meanwhile()
                if time.monotonic() > until:
                    process.kill()
                    raise ValueError(f"it did not answer within {_TIMEOUT_S} s")
        meanwhile()
        return process.returncode, output


def _waited(process: subprocess.Popen[str]) -> str | None:
    """All that it printed, when it ends within the period."""
    try:
        return process.communicate(timeout=_PERIOD_S)[0]
    except subprocess.TimeoutExpired:
        return None
