"""The programs of macOS that tell of the GPU, and what stands in their output. Parsing is pure.

``ioreg`` prints the registry of drivers, for everybody; ``powermetrics`` prints power and clock, for root
alone. Both are part of the system, and neither has a documented form: what is looked for here is what
published outputs of macOS 12 to 26 have in common.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from obt_agent.hardware.field_reader import Unreadable

IOREG: Final = ("/usr/sbin/ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator")
POWERMETRICS: Final = ("/usr/bin/powermetrics", "--samplers", "gpu_power", "-n", "1", "-i", "200")
"""One reading of 200 ms."""

# Longer than the readings take on a machine that is busy, shorter than a caller would call stalled.
_WITHIN_S: Final = 1.5

# "+-o AGXAcceleratorG13X  <class AGXAcceleratorG13X, id 0x1000008b1, registered, ...>"
_ENTRY: Final = re.compile(r"^[ |]*\+-o .*<class (\w+)", re.MULTILINE)
# Apple's own; those of AMD's and Intel's in older Macs have classes of their own.
_OWN_CLASS: Final = "AGX"
_TEXT: Final = r'"{}" = "([^"\n]*)"'
# In a dictionary on one line, or a property on a line of its own. The quotation mark before the sign keeps
# "In use system memory (driver)" apart from "In use system memory".
_NUMBER: Final = r'"{}" ?= ?(\d{{1,18}})\b'

_POWER: Final = re.compile(r"^GPU Power:\s+(\d{1,9}) mW", re.MULTILINE)
_CLOCK: Final = re.compile(r"^GPU HW active frequency:\s+(\d{1,9}) MHz", re.MULTILINE)
_MEGA: Final = 1_000_000

RunTool = Callable[[Sequence[str]], str]
"""Runs a program and returns what it prints. Raises OSError and Unreadable."""


@dataclass(frozen=True)
class Accelerator:
    """One entry of the registry: the class of its driver, and its text."""

    driver: str
    text: str

    def words(self, key: str) -> str:
        """Return a property that is a text. Raise Unreadable."""
        return _found(re.search(_TEXT.format(re.escape(key)), self.text))

    def number(self, key: str) -> int:
        """Return a property, or a statistic, that is a number. Raise Unreadable."""
        return int(_found(re.search(_NUMBER.format(re.escape(key)), self.text)))


def accelerators(ioreg: str) -> Iterator[Accelerator]:
    """Yield Apple's own GPUs from the output of ``IOREG``."""
    starts = list(_ENTRY.finditer(ioreg))
    for number, start in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(ioreg)
        if start[1].startswith(_OWN_CLASS):
            yield Accelerator(driver=start[1], text=ioreg[start.start() : end])


def power_watts(powermetrics: str) -> float:
    """Return the GPU's power from the output of ``POWERMETRICS``. Raise Unreadable."""
    return int(_found(_POWER.search(powermetrics))) / 1000


def clock_hertz(powermetrics: str) -> int:
    """Return the clock at which the GPU worked, as far as it did. Raise Unreadable."""
    return int(_found(_CLOCK.search(powermetrics))) * _MEGA


def run_tool(command: Sequence[str]) -> str:
    """Return what a program prints.

    Raises:
        OSError: there is no such program.
        Unreadable: it failed, or did not end in time.
    """
    try:
        done = subprocess.run(  # noqa: S603 - words of ours, never through a shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unreadable(f"stalled: {command[0]} did not answer within {_WITHIN_S:g} s") from error
    if done.returncode != 0:
        raise Unreadable(f"driver_error: {command[0]} ended with status {done.returncode}")
    return done.stdout


def _found(match: re.Match[str] | None) -> str:
    if match is None or not match[1]:
        raise Unreadable("not_reported")
    return match[1]
