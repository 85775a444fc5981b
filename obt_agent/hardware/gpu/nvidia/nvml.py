"""NVIDIA's management library through nvidia-ml-py: values with units, and reasons in place of its errors.

The only module that imports pynvml. Everything raises ``Unreadable``; nothing else leaves it, because the
library's binding also raises what is no NVMLError (NVMLLibraryMismatchError, ctypes' and decoding errors).
"""

from __future__ import annotations

import _ctypes
import ctypes
from dataclasses import dataclass
from functools import partial, partialmethod
from statistics import fmean
from typing import Any

import pynvml

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded, non_negative, positive
from obt_agent.hardware.gpu.nvidia.throttling import throttle_reasons
from obt_agent.hardware.host.linux.pci import normalised

LIBRARY = "libnvidia-ml.so.1"
PLACES = (LIBRARY, "/usr/lib/wsl/lib/libnvidia-ml.so.1", "/run/opengl-driver/lib/libnvidia-ml.so.1")
"""Where the driver's library is: the loader's own places, then WSL's and NixOS's."""

# The kernel gives no greater ones; drivers write marks for processes of other containers.
_MOST_PID = 1 << 31
# No machine has more; a number beyond is garbage, and each GPU would be asked for.
_MOST_GPUS = 1024
_PERCENT = 100
# No GPU works beyond; drivers give 255 and more for "unknown".
_HOTTEST = 150

# What the driver writes where it has no word, in the languages of its many versions.
_NO_WORD = {"n/a", "[n/a]", "unknown", "unknown error", "[unknown error]", "not supported", "[not supported]"}

_CLOSED = "no_permission: the devices /dev/nvidia* are closed to the agent's user"
_OLD_DRIVER = "not_supported: the driver is older than this reading"
_NOTHING_FOUND = "not_reported: the driver found nothing"
_REASONS = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not_supported",
    pynvml.NVML_ERROR_NO_PERMISSION: "no_permission",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: _OLD_DRIVER,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: _OLD_DRIVER,
    pynvml.NVML_ERROR_NO_DATA: "not_reported",
    pynvml.NVML_ERROR_NOT_FOUND: _NOTHING_FOUND,
    # What the binding raises where a list that it asks the length of is empty.
    pynvml.NVML_SUCCESS: _NOTHING_FOUND,
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
    """Bytes. ``used`` and ``reserved`` are None, with a reason, where the driver does not tell them."""

    total: int
    used: int | None
    reserved: int | None
    reasons: dict[str, str]


def _call(binding: Any, function: str, *arguments: Any) -> Any:
    """Call the binding.

    Raises:
        Unreadable: whatever went wrong.
    """
    try:
        return getattr(binding, function)(*arguments)
    except AttributeError as error:  # an older binding lacks what an older driver does
        raise Unreadable(_OLD_DRIVER) from error
    except pynvml.NVMLError as error:
        code = error.value
        raise Unreadable(_REASONS.get(code, f"driver_error: NVML error {code}")) from error
    except Exception as error:  # ctypes, decoding, version checks: the binding lets all of them out
        raise Unreadable(f"driver_error: {type(error).__name__}") from error


class Nvml:
    """The library, loaded and initialised between ``open`` and ``close``.

    ``binding`` is pynvml, or what answers in its place for a snapshot: then nothing is loaded.
    """

    def __init__(self, places: tuple[str, ...] = PLACES, binding: Any = pynvml) -> None:
        self._places = places
        self._binding = binding

    def open(self) -> None:
        """Load the library if need be, and initialise it. Raises Unreadable."""
        if self._binding is pynvml and pynvml.nvmlLib is None:
            pynvml.nvmlLib = self._load()
        try:
            _call(self._binding, "nvmlInit")
        except Unreadable as error:
            raise Unreadable(_CLOSED if error.reason == "no_permission" else error.reason) from error

    def close(self) -> None:
        """Shut it down, which lets GPUs sleep. What goes wrong does not matter any more."""
        try:
            _call(self._binding, "nvmlShutdown")
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
        """Return the kernel driver's version. Raises Unreadable."""
        return _word(_call(self._binding, "nvmlSystemGetDriverVersion"))

    def cuda_version(self) -> str:
        """Return the newest CUDA that the driver supports ("13.0"). Raises Unreadable."""
        # 13020 is 13.2
        version = positive(int(_call(self._binding, "nvmlSystemGetCudaDriverVersion_v2")))
        return f"{version // 1000}.{version % 1000 // 10}"

    def count(self) -> int:
        """Return how many GPUs the driver shows. Raises Unreadable."""
        count = non_negative(int(_call(self._binding, "nvmlDeviceGetCount")))
        if count > _MOST_GPUS:
            raise Unreadable("malformed")
        return count

    def device(self, index: int) -> Device:
        """Return a GPU by the driver's order of today. Raises Unreadable."""
        return Device(self._binding, _call(self._binding, "nvmlDeviceGetHandleByIndex", index), index)

    def _load(self) -> ctypes.CDLL:
        for place in self._places:
            try:
                return ctypes.CDLL(place)
            except OSError:
                continue
        raise Unreadable(_REASONS[pynvml.NVML_ERROR_LIBRARY_NOT_FOUND])


class Device:
    """One GPU, or one MIG instance of a GPU. Every method raises Unreadable.

    Where 0 cannot be (power of a GPU that answers, its limit, its memory, its clocks), it is the driver's way
    to say that it does not know, as under WSL, in virtual machines and on parts of a GPU.
    """

    def __init__(self, binding: Any, handle: Any, index: int) -> None:
        self._binding = binding
        self._handle = handle
        # The driver's order of today, which identifies nothing.
        self.index = index
        # Cleared when the driver refuses the instant reading, so that it is not asked at every sample.
        self._instant_power = True

    def _ask(self, name: str, *arguments: Any) -> Any:
        return _call(self._binding, f"nvmlDeviceGet{name}", self._handle, *arguments)

    def _word(self, name: str) -> str:
        return _word(self._ask(name))

    def _number(self, name: str) -> int:
        return non_negative(int(self._ask(name)))

    def _positive(self, name: str) -> int:
        return positive(int(self._ask(name)))

    def _thousandths(self, name: str) -> float:
        return self._positive(name) / 1000

    def _clock(self, kind: int) -> int:
        return positive(int(self._ask("ClockInfo", kind))) * 1_000_000

    # Each of these is one question whose answer is checked and scaled, and no more.
    name = partialmethod(_word, "Name")
    uuid = partialmethod(_word, "UUID")
    vbios_version = partialmethod(_word, "VbiosVersion")
    cores = partialmethod(_positive, "NumGpuCores")
    bus_width_bits = partialmethod(_positive, "MemoryBusWidth")
    # The fastest link of card and slot together, and the link now, whose generation falls when the GPU idles.
    max_pcie_gen = partialmethod(_positive, "MaxPcieLinkGeneration")
    max_pcie_width = partialmethod(_positive, "MaxPcieLinkWidth")
    pcie_gen = partialmethod(_positive, "CurrPcieLinkGeneration")
    pcie_width = partialmethod(_positive, "CurrPcieLinkWidth")
    # The limit in force, and the energy since the driver was loaded; the driver gives milliwatts and -joules.
    power_limit_watts = partialmethod(_thousandths, "EnforcedPowerLimit")
    energy_joules = partialmethod(_thousandths, "TotalEnergyConsumption")
    # Of the shaders, the multiprocessors and the memory.
    graphics_hertz = partialmethod(_clock, pynvml.NVML_CLOCK_GRAPHICS)
    sm_hertz = partialmethod(_clock, pynvml.NVML_CLOCK_SM)
    memory_hertz = partialmethod(_clock, pynvml.NVML_CLOCK_MEM)
    # Into how many parts the GPU could be divided; and of a part, its place in the GPU and within that place.
    max_mig_instances = partialmethod(_number, "MaxMigDeviceCount")
    gpu_instance_id = partialmethod(_number, "GpuInstanceId")
    compute_instance_id = partialmethod(_number, "ComputeInstanceId")

    def pci_address(self) -> str:
        """Return the address as the kernel writes it."""
        info = self._ask("PciInfo")
        # Drivers before 2017 fill in the shorter, legacy field alone.
        raw = info.busId or info.busIdLegacy
        try:
            return normalised(raw.decode() if isinstance(raw, bytes) else raw)
        except ValueError:
            raise Unreadable("malformed") from None

    def compute_capability(self) -> str:
        """Return CUDA's "8.9"."""
        major, minor = self._ask("CudaComputeCapability")
        return f"{positive(int(major))}.{minor}"

    def memory(self) -> Memory:
        """Return the GPU's own memory; drivers before 510 count what is reserved as used."""
        fields = FieldReader()
        try:
            info = self._ask("MemoryInfo", pynvml.nvmlMemory_v2)
            reserved = info.reserved
        except Unreadable as error:
            if error.reason != _OLD_DRIVER:
                raise
            info, reserved = self._ask("MemoryInfo"), None
            fields.note("reserved_bytes", _OLD_DRIVER)
        total = positive(info.total)
        # A part that is unknown, or contradicts the total, takes nothing but itself away.
        used = fields.read("memory_used_bytes", partial(_within, info.used, total))
        if reserved is not None:
            reserved = fields.read("reserved_bytes", partial(_within, reserved, total))
        return Memory(total, used, reserved, fields.reasons)

    def power_watts(self) -> float:
        """Return the driver's instant reading where it has one, else its average (1 s since Ampere)."""
        if self._instant_power:
            try:
                return self._instant_watts()
            except Unreadable as error:
                # A GPU that is lost for now may have the reading when it is back.
                self._instant_power = error.reason.startswith("lost")
        return self._thousandths("PowerUsage")

    def utilization(self, fields: FieldReader) -> tuple[float | None, float | None]:
        """Return shares of the last sample period: with a kernel running, and with memory read or written.

        Does not raise: one call answers for both, and each may be unknown by itself, for a reason of its own.
        """
        rates = fields.read("utilization_ratio", partial(self._ask, "UtilizationRates"))
        if rates is None:
            fields.note("memory_controller_ratio", fields.reasons["utilization_ratio"])
            return None, None
        return (
            fields.read("utilization_ratio", lambda: _percent(rates.gpu)),
            fields.read("memory_controller_ratio", lambda: _percent(rates.memory)),
        )

    def temperature_celsius(self) -> float:
        """Return the core's temperature. A GPU that runs is warmer than 0 °C; 0 and less is a mark."""
        kind = pynvml.NVML_TEMPERATURE_GPU
        # The older function is unsigned in older bindings: its -1 is 4294967295 there.
        degrees = ctypes.c_int32(int(self._newer_or_older("TemperatureV", "Temperature", kind))).value
        if degrees <= 0:
            raise Unreadable("not_reported")
        if degrees > _HOTTEST:
            raise Unreadable("malformed")
        return float(degrees)

    def throttle_reasons(self) -> tuple[str, ...]:
        """Return why clocks are lower than they could be; empty when nothing holds them."""
        mask = non_negative(
            int(self._newer_or_older("CurrentClocksEventReasons", "CurrentClocksThrottleReasons"))
        )
        return throttle_reasons(mask)

    def fan_ratio(self) -> float:
        """Return the fan's intended speed; drivers may give more than 100 %, which is held to 1."""
        return min(1.0, non_negative(int(self._ask("FanSpeed"))) / 100)

    def ecc_uncorrected(self) -> int:
        """Return the memory errors that were not corrected, since the driver was loaded."""
        kinds = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        return non_negative(int(self._ask("TotalEccErrors", *kinds)))

    def processes(self) -> dict[int, int | None]:
        """Return bytes by PID of programs that compute; None where the driver does not tell (WSL).

        PIDs of 0 and of 2^31 and more are left out: some drivers give such in containers and after an
        upgrade.
        """
        listed = self._newer_or_older("ComputeRunningProcesses_v3", "ComputeRunningProcesses_v2")
        return {int(p.pid): _process_bytes(p.usedGpuMemory) for p in listed if 0 < p.pid < _MOST_PID}

    def process_shares(self, since_us: int) -> dict[int, float]:
        """Return which share of the multiprocessors' time each process took since then (Unix microseconds).

        Processes that took none may be left out.
        """
        try:
            samples = self._ask("ProcessUtilization", since_us)
        except Unreadable as error:
            if error.reason != _NOTHING_FOUND:
                raise
            return {}
        shares: dict[int, list[float]] = {}
        for one in samples:
            # Some drivers fill in samples that they do not have with garbage.
            if 0 < one.pid < _MOST_PID and one.smUtil <= _PERCENT:
                shares.setdefault(int(one.pid), []).append(one.smUtil / _PERCENT)
        return {pid: fmean(found) for pid, found in shares.items()}

    def mig_enabled(self) -> bool:
        """Return whether the GPU is divided."""
        return bool(self._ask("MigMode")[0])

    def mig_instance(self, index: int) -> Device:
        """Return one of its parts; Unreadable for numbers that are not in use."""
        return Device(self._binding, self._ask("MigDeviceHandleByIndex", index), index)

    def multiprocessors(self) -> int:
        """Return how many multiprocessors a MIG instance has."""
        return positive(int(self._ask("Attributes_v2").multiprocessorCount))

    def _newer_or_older(self, newer: str, older: str, *arguments: Any) -> Any:
        """Drivers before the newer function have the older one."""
        try:
            return self._ask(newer, *arguments)
        except Unreadable as error:
            if error.reason != _OLD_DRIVER:
                raise
            return self._ask(older, *arguments)

    def _instant_watts(self) -> float:
        value = self._ask("FieldValues", [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
        if value.nvmlReturn != pynvml.NVML_SUCCESS:
            raise Unreadable(_REASONS.get(value.nvmlReturn, "not_supported"))
        # The union holds another member for each type; reading the wrong one gives garbage.
        if value.valueType != pynvml.NVML_VALUE_TYPE_UNSIGNED_INT:
            raise Unreadable("malformed")
        return positive(value.value.uiVal) / 1000


def _percent(value: int) -> float:
    if non_negative(value) > _PERCENT:
        raise Unreadable("malformed")
    return value / _PERCENT


def _word(text: str) -> str:
    if text.strip().lower() in _NO_WORD:
        raise Unreadable("not_reported")
    return bounded(text)


def _within(part: int, total: int) -> int:
    if non_negative(part) > total:
        raise Unreadable("inconsistent")
    return part


def _process_bytes(value: int | None) -> int | None:
    """A program that computes has memory: 0 is no size, as little as the mark for an unknown one."""
    return None if not value or value >= 1 << 63 else int(value)
