"""NVIDIA's management library through nvidia-ml-py: values with units, and reasons in place of its errors.

The only module that imports pynvml. Everything raises ``Unreadable``; nothing else leaves it, because the
library's binding also raises what is no NVMLError (NVMLLibraryMismatchError, ctypes' and decoding errors).
"""

from __future__ import annotations

import _ctypes
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

from obt_agent.hardware.field_reader import Unreadable, bounded, non_negative
from obt_agent.hardware.gpu.nvidia.gpu_info import THROTTLE_BITS
from obt_agent.hardware.host.linux.pci import normalised

LIBRARY = "libnvidia-ml.so.1"
PLACES = (LIBRARY, "/usr/lib/wsl/lib/libnvidia-ml.so.1", "/run/opengl-driver/lib/libnvidia-ml.so.1")
"""Where the driver's library is: the loader's own places, then WSL's and NixOS's."""

_MOST_PID = 1 << 31
_COLDEST, _HOTTEST = -50, 150
"""No GPU works beyond; drivers give 255 and more for "unknown"."""

_CLOSED = "no_permission: the devices /dev/nvidia* are closed to the agent's user"
_OLD_DRIVER = "not_supported: the driver is older than this reading"
_REASONS = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not_supported",
    pynvml.NVML_ERROR_NO_PERMISSION: "no_permission",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: _OLD_DRIVER,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: _OLD_DRIVER,
    pynvml.NVML_ERROR_NO_DATA: "not_reported",
    pynvml.NVML_ERROR_GPU_IS_LOST: "lost",
    pynvml.NVML_ERROR_RESET_REQUIRED: "lost: the GPU needs a reset",
    pynvml.NVML_ERROR_GPU_NOT_FOUND: "lost",
    pynvml.NVML_ERROR_UNINITIALIZED: "lost: the library lost its connection to the driver",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "driver_error: NVIDIA's kernel driver is not loaded",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "not_present: NVIDIA's driver library is not installed",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "driver_error: library and kernel driver differ in version",
    pynvml.NVML_ERROR_TIMEOUT: "driver_error: the driver timed out",
    pynvml.NVML_ERROR_IRQ_ISSUE: "driver_error: the GPU's interrupts do not arrive",
}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. ``reserved`` is None where the driver does not tell it apart."""

    total: int
    used: int
    reserved: int | None


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the binding.

    Raises:
        Unreadable: whatever went wrong.
    """
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        code = error.value
        raise Unreadable(_REASONS.get(code, f"driver_error: NVML error {code}")) from error
    except Exception as error:
        raise Unreadable(f"driver_error: {type(error).__name__}") from error


class Nvml:
    """The library, loaded and initialised between ``open`` and ``close``."""

    def __init__(self, places: tuple[str, ...] = PLACES) -> None:
        self._places = places

    def open(self) -> None:
        """Load the library if need be, and initialise it. Raises Unreadable."""
        if pynvml.nvmlLib is None:
            pynvml.nvmlLib = self._load()
        try:
            _call(pynvml.nvmlInit)
        except Unreadable as error:
            raise Unreadable(_CLOSED if error.reason == "no_permission" else error.reason) from error

    def close(self) -> None:
        """Shut it down, which lets GPUs sleep. What goes wrong does not matter any more."""
        try:
            _call(pynvml.nvmlShutdown)
        except Unreadable:
            return

    def unload(self) -> None:
        """Forget the loaded library, so that the next ``open`` takes the one that is installed now."""
        self.close()
        library, pynvml.nvmlLib = pynvml.nvmlLib, None
        pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 -- its pointers lead into the library that goes
        if library is not None:
            _ctypes.dlclose(library._handle)  # noqa: SLF001 -- ctypes has no public way to unload

    def driver_version(self) -> str:
        """The kernel driver's version. Raises Unreadable."""
        return bounded(_call(pynvml.nvmlSystemGetDriverVersion))

    def cuda_version(self) -> str:
        """The newest CUDA that the driver supports ("13.0"). Raises Unreadable."""
        version = int(_call(pynvml.nvmlSystemGetCudaDriverVersion_v2))
        return f"{version // 1000}.{version % 1000 // 10}"

    def count(self) -> int:
        """How many GPUs the driver shows. Raises Unreadable."""
        return int(_call(pynvml.nvmlDeviceGetCount))

    def device(self, index: int) -> Device:
        """A GPU by the driver's order of today. Raises Unreadable."""
        return Device(_call(pynvml.nvmlDeviceGetHandleByIndex, index), index)

    def _load(self) -> ctypes.CDLL:
        for place in self._places:
            try:
                return ctypes.CDLL(place)
            except OSError:
                continue
        raise Unreadable(_REASONS[pynvml.NVML_ERROR_LIBRARY_NOT_FOUND])


class Device:
    """One GPU, or one MIG instance of a GPU. Every method raises Unreadable."""

    def __init__(self, handle: Any, index: int) -> None:
        self._handle = handle
        self.index = index
        self._instant_power = True

    def name(self) -> str:
        """The product's name."""
        return bounded(_call(pynvml.nvmlDeviceGetName, self._handle))

    def uuid(self) -> str:
        """The UUID ("GPU-..." or "MIG-...")."""
        return bounded(_call(pynvml.nvmlDeviceGetUUID, self._handle))

    def pci_address(self) -> str:
        """The address as the kernel writes it."""
        info = _call(pynvml.nvmlDeviceGetPciInfo, self._handle)
        raw = info.busId or info.busIdLegacy
        try:
            return normalised(raw.decode() if isinstance(raw, bytes) else raw)
        except ValueError:
            raise Unreadable("malformed") from None

    def vbios_version(self) -> str:
        """The video BIOS's version."""
        return bounded(_call(pynvml.nvmlDeviceGetVbiosVersion, self._handle))

    def compute_capability(self) -> str:
        """CUDA's "8.9"."""
        major, minor = _call(pynvml.nvmlDeviceGetCudaComputeCapability, self._handle)
        return f"{major}.{minor}"

    def cores(self) -> int:
        """CUDA cores."""
        return self._count(pynvml.nvmlDeviceGetNumGpuCores)

    def bus_width_bits(self) -> int:
        """Width of the memory bus."""
        return self._count(pynvml.nvmlDeviceGetMemoryBusWidth)

    def memory(self) -> Memory:
        """The GPU's own memory; drivers before 510 count what is reserved as used."""
        try:
            info = _call(pynvml.nvmlDeviceGetMemoryInfo, self._handle, pynvml.nvmlMemory_v2)
            reserved = non_negative(info.reserved)
        except Unreadable as error:
            if error.reason != _OLD_DRIVER:
                raise
            info, reserved = _call(pynvml.nvmlDeviceGetMemoryInfo, self._handle), None
        total, used = non_negative(info.total), non_negative(info.used)
        if used > total or (reserved or 0) > total:
            raise Unreadable("inconsistent")
        return Memory(total, used, reserved)

    def max_pcie_gen(self) -> int:
        """Fastest generation of card and slot together."""
        return self._count(pynvml.nvmlDeviceGetMaxPcieLinkGeneration)

    def max_pcie_width(self) -> int:
        """Most lanes of card and slot together."""
        return self._count(pynvml.nvmlDeviceGetMaxPcieLinkWidth)

    def pcie_gen(self) -> int:
        """Generation now; it falls when the GPU idles."""
        return self._count(pynvml.nvmlDeviceGetCurrPcieLinkGeneration)

    def pcie_width(self) -> int:
        """Lanes now."""
        return self._count(pynvml.nvmlDeviceGetCurrPcieLinkWidth)

    def power_limit_watts(self) -> float:
        """The limit in force."""
        return self._count(pynvml.nvmlDeviceGetEnforcedPowerLimit) / 1000

    def power_watts(self) -> float:
        """The driver's instant reading where it has one, else its average (1 s on Ampere and later)."""
        if self._instant_power:
            try:
                return self._instant_watts()
            except Unreadable as error:
                self._instant_power = error.reason.startswith("lost")
        return self._count(pynvml.nvmlDeviceGetPowerUsage) / 1000

    def _instant_watts(self) -> float:
        value = _call(pynvml.nvmlDeviceGetFieldValues, self._handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
        if value.nvmlReturn != pynvml.NVML_SUCCESS:
            raise Unreadable(_REASONS.get(value.nvmlReturn, "not_supported"))
        if value.valueType != pynvml.NVML_VALUE_TYPE_UNSIGNED_INT:
            raise Unreadable("malformed")
        return non_negative(value.value.uiVal) / 1000

    def energy_joules(self) -> float:
        """Energy since the driver was loaded."""
        return self._count(pynvml.nvmlDeviceGetTotalEnergyConsumption) / 1000

    def utilization(self) -> tuple[float, float]:
        """Shares of the last sample period with a kernel running, and with memory being read or written."""
        rates = _call(pynvml.nvmlDeviceGetUtilizationRates, self._handle)
        return _percent(rates.gpu), _percent(rates.memory)

    def temperature_celsius(self) -> float:
        """The GPU's core."""
        kind = pynvml.NVML_TEMPERATURE_GPU
        try:
            degrees = int(_call(pynvml.nvmlDeviceGetTemperatureV, self._handle, kind))
        except Unreadable as error:
            if error.reason != _OLD_DRIVER:
                raise
            degrees = int(_call(pynvml.nvmlDeviceGetTemperature, self._handle, kind))
        if not _COLDEST <= degrees <= _HOTTEST:
            raise Unreadable("malformed")
        return float(degrees)

    def graphics_hertz(self) -> int:
        """The shaders' clock."""
        return self._clock(pynvml.NVML_CLOCK_GRAPHICS)

    def sm_hertz(self) -> int:
        """The multiprocessors' clock."""
        return self._clock(pynvml.NVML_CLOCK_SM)

    def memory_hertz(self) -> int:
        """The memory's clock."""
        return self._clock(pynvml.NVML_CLOCK_MEM)

    def throttle_reasons(self) -> tuple[str, ...]:
        """Why clocks are lower than they could be; empty when nothing holds them."""
        try:
            mask = int(_call(pynvml.nvmlDeviceGetCurrentClocksEventReasons, self._handle))
        except Unreadable as error:
            if error.reason != _OLD_DRIVER:
                raise
            mask = int(_call(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, self._handle))
        return tuple(name for bit, name in THROTTLE_BITS.items() if mask & bit)

    def fan_ratio(self) -> float:
        """The fan's intended speed; drivers may say more than 100 %, which is held to 1."""
        return min(1.0, self._count(pynvml.nvmlDeviceGetFanSpeed) / 100)

    def ecc_uncorrected(self) -> int:
        """Memory errors that were not corrected, since the driver was loaded."""
        kinds = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        return non_negative(int(_call(pynvml.nvmlDeviceGetTotalEccErrors, self._handle, *kinds)))

    def processes(self) -> dict[int, int | None]:
        """Bytes by PID of programs that compute; None where the driver does not say (WSL).

        PIDs of 0 and of 2^31 and more are left out: some drivers give such in containers and after an
        upgrade.
        """
        try:
            listed = _call(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, self._handle)
        except Unreadable as error:
            if error.reason != _OLD_DRIVER:
                raise
            listed = _call(pynvml.nvmlDeviceGetComputeRunningProcesses_v2, self._handle)
        return {int(p.pid): _process_bytes(p.usedGpuMemory) for p in listed if 0 < p.pid < _MOST_PID}

    def mig_enabled(self) -> bool:
        """Whether the GPU is divided."""
        return bool(_call(pynvml.nvmlDeviceGetMigMode, self._handle)[0])

    def max_mig_instances(self) -> int:
        """Into how many parts it could be divided."""
        return self._count(pynvml.nvmlDeviceGetMaxMigDeviceCount)

    def mig_instance(self, index: int) -> Device:
        """One of its parts; Unreadable for numbers that are not in use."""
        return Device(_call(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, self._handle, index), index)

    def gpu_instance_id(self) -> int:
        """Of a MIG instance."""
        return self._count(pynvml.nvmlDeviceGetGpuInstanceId)

    def compute_instance_id(self) -> int:
        """Of a MIG instance."""
        return self._count(pynvml.nvmlDeviceGetComputeInstanceId)

    def multiprocessors(self) -> int:
        """Of a MIG instance."""
        return int(_call(pynvml.nvmlDeviceGetAttributes_v2, self._handle).multiprocessorCount)

    def _count(self, function: Callable[..., Any]) -> int:
        return non_negative(int(_call(function, self._handle)))

    def _clock(self, kind: int) -> int:
        return non_negative(int(_call(pynvml.nvmlDeviceGetClockInfo, self._handle, kind))) * 1_000_000


def _percent(value: int) -> float:
    if not 0 <= value <= 100:  # noqa: PLR2004 -- percent
        raise Unreadable("malformed")
    return value / 100


def _process_bytes(value: int | None) -> int | None:
    return None if value is None or value >= 1 << 63 else int(value)
