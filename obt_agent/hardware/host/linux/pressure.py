"""Pressure stall information: for how much of the time something waited for CPU, memory or I/O.

Source: the kernel's Documentation/accounting/psi. Each file's line "some" ends with the microseconds since
the start of the kernel in which at least one task waited.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from obt_agent.hardware.field_reader import FieldReader, optional
from obt_agent.hardware.host.rates import Rates
from obt_agent.hardware.samples import PressureSample
from obt_agent.hardware.snapshot.root import FileCache, Root

_FOLDER = "/proc/pressure"
_US_PER_S = 1_000_000
_NAMES = ("cpu", "memory", "io")
_NOT_THERE = PressureSample(unavailable=dict.fromkeys((f"{name}_ratio" for name in _NAMES), "not_present"))


class PressureReader:
    """Shares of the time since the reading before."""

    def __init__(self, root: Root, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._root = root
        self._clock = clock
        self._hot = FileCache(root)
        self._rates = Rates()
        # Kernels that are built or started without it have no such files: then none is asked for.
        self._is_there = True

    def probe(self) -> None:
        """Look again whether the kernel tells (some are built or started without it)."""
        self._is_there = optional(partial(self._root.text, f"{_FOLDER}/cpu", 256)) is not None

    def sample(self) -> PressureSample:
        """Since the sample before. Never raises."""
        if not self._is_there:
            return _NOT_THERE
        fields = FieldReader()
        totals = {name: fields.read(f"{name}_ratio", partial(self._waited_us, name)) for name in _NAMES}
        self._rates.update({name: us for name, us in totals.items() if us is not None}, self._clock())
        ratios: dict[str, Any] = {f"{name}_ratio": self._ratio(fields, name) for name in _NAMES}
        return PressureSample(**ratios, unavailable=fields.reasons)

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()

    def _ratio(self, fields: FieldReader, name: str) -> float | None:
        field = f"{name}_ratio"
        if field in fields.reasons:
            return None
        return fields.read(field, lambda: min(1.0, self._rates.of(name) / _US_PER_S))

    def _waited_us(self, name: str) -> int:
        return parse_total(self._hot.text(f"{_FOLDER}/{name}"))


def parse_total(text: str) -> int:
    """Microseconds of the line "some". Raises ValueError."""
    line = text.partition("\n")[0]
    kind, _, rest = line.partition(" ")
    total = int(rest.rpartition("total=")[2])
    if kind != "some" or total < 0:
        raise ValueError(line)
    return total
