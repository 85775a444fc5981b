"""Why an NVIDIA GPU runs below its clocks, as the driver's bit mask says it."""

from __future__ import annotations

from typing import Final

THROTTLE_BITS: Final = {
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake",
    0x100: "display_clock",
}
"""nvmlClocksEventReason*; 0x1 is an idle GPU, which is no throttling."""


def throttle_reasons(mask: int) -> tuple[str, ...]:
    """Return the names of the bits that are set; bits without a name are left out."""
    return tuple(name for bit, name in THROTTLE_BITS.items() if mask & bit)
