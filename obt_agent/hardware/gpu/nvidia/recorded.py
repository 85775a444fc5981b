"""NVIDIA's library as it answered when a snapshot was taken, in place of pynvml.

``answers`` writes the lines: ``<gpu|*> <symbol> <value>``. What has no line is not supported. Part 2 of GPU 1
(MIG) is "GPU" 112, as in the library that the tests compile.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import pynvml

_VERSION = re.compile(r"_v\d$")
# Functions whose argument tells which of several readings is meant; others take it for a detail.
_BY_KIND = ("nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature")
_FIRST_PART, _PARTS_OF_ONE = 100, 10


def _pci(value: str) -> SimpleNamespace:
    return SimpleNamespace(busId=value.encode(), busIdLegacy=b"")


def _memory(value: str) -> SimpleNamespace:
    total, used, reserved = map(int, value.split())
    return SimpleNamespace(total=total, used=used, reserved=reserved)


def _rates(value: str) -> SimpleNamespace:
    gpu, memory = map(int, value.split())
    return SimpleNamespace(gpu=gpu, memory=memory)


def _processes(value: str) -> list[SimpleNamespace]:
    pairs = (pair.split(":") for pair in value.split())
    return [SimpleNamespace(pid=int(pid), usedGpuMemory=int(used)) for pid, used in pairs]


# What a line's value becomes; anything else is a whole number.
_SHAPES: Final[dict[str, Callable[[str], Any]]] = {
    "nvmlSystemGetDriverVersion": str,
    "nvmlDeviceGetName": str,
    "nvmlDeviceGetUUID": str,
    "nvmlDeviceGetVbiosVersion": str,
    "nvmlDeviceGetPciInfo": _pci,
    "nvmlDeviceGetCudaComputeCapability": lambda value: tuple(map(int, value.split("."))),
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetUtilizationRates": _rates,
    "nvmlDeviceGetComputeRunningProcesses": _processes,
    "nvmlDeviceGetMigMode": lambda value: (int(value), int(value)),
    "nvmlDeviceGetAttributes": lambda value: SimpleNamespace(multiprocessorCount=int(value)),
}


class RecordedBinding:
    """Has the functions of pynvml that ``nvml`` calls. Raises pynvml.NVMLError as they do."""

    def __init__(self, lines: str) -> None:
        # By GPU and symbol, without the version of the function, which says nothing of the value.
        self._values: dict[tuple[str, str], str] = {}
        for line in lines.splitlines():
            gpu, _, rest = line.partition(" ")
            symbol, _, value = rest.partition(" ")
            self._values[gpu, _VERSION.sub("", symbol.removesuffix(".multiprocessorCount"))] = value

    def __getattr__(self, function: str) -> Callable[..., Any]:
        return partial(self._answer, _VERSION.sub("", function).removesuffix("V"))

    def nvmlInit(self) -> None:  # noqa: N802 -- pynvml's names
        """Answer as a driver that works."""

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Answer as a driver that works."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        """Return the GPU's number, by which its lines begin."""
        return index

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: int, index: int) -> int:  # noqa: N802
        """Return the number of a part, if it is in use."""
        part = _FIRST_PART + _PARTS_OF_ONE * gpu + index
        if not any(number == str(part) for number, _ in self._values):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return part

    def nvmlDeviceGetFieldValues(self, gpu: int, fields: list[int]) -> list[SimpleNamespace]:  # noqa: N802
        """Return the one field that is asked for."""
        value = SimpleNamespace(uiVal=self._answer(f"nvmlDeviceGetFieldValues.{fields[0]}", gpu))
        kind = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
        return [SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, valueType=kind, value=value)]

    def _answer(self, function: str, gpu: object = "*", *arguments: object) -> Any:
        symbol = f"{function}.{arguments[0]}" if function in _BY_KIND else function
        value = self._values.get((str(gpu), symbol))
        if value is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return _SHAPES.get(function, int)(value)
