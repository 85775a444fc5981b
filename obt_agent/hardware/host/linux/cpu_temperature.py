"""The files of the CPUs' own temperature sensors."""

from __future__ import annotations

import re
from functools import partial

from obt_agent.hardware.field_reader import Unreadable, optional
from obt_agent.hardware.host.linux.hwmon import temperature_inputs
from obt_agent.hardware.snapshot.root import Root

_HWMON, _THERMAL = "/sys/class/hwmon", "/sys/class/thermal"

# Drivers of x86, and how the labels of the sensors to prefer begin.
_LABELS = {"coretemp": ("Package id",), "k10temp": ("Tdie", "Tctl"), "zenpower": ("Tdie", "Tctl")}

# Zones of a CPU or of a cluster of its cores, as Arm's device trees spell them ("bigcore0-thermal").
_CPU_ZONE = re.compile(
    r"x86_pkg_temp|package[-_]therm|cpu|(big|mid|little)[-_]?(core|cpu|cluster)?\d*[-_]therm", re.IGNORECASE
)

# The zone of the whole chip, where none is the CPU's alone.
_CHIP_ZONE = re.compile(r"soc[-_]therm", re.IGNORECASE)


def find_sensors(root: Root) -> tuple[str, ...]:
    """Return the files of the CPUs' sensors, of which the hottest counts.

    Raise Unreadable ("not_present") where there is none.
    """
    found: list[str] = []
    for folder in root.below(_HWMON):
        driver = root.known_text(f"{folder}/name")
        if driver in _LABELS or _CPU_ZONE.match(driver):
            found += _labelled(root, folder, _LABELS.get(driver, ()))
    sensors = found or _zones(root, _CPU_ZONE) or _zones(root, _CHIP_ZONE)
    if not sensors:
        raise Unreadable("not_present")
    return tuple(sensors)


def _zones(root: Root, kind: re.Pattern[str]) -> list[str]:
    zones = root.below(_THERMAL, "thermal_zone")
    return [f"{zone}/temp" for zone in zones if kind.match(root.known_text(f"{zone}/type"))]


def _labelled(root: Root, folder: str, preferred: tuple[str, ...]) -> list[str]:
    """Return the sensors of the first preferred label that is there; all where none is."""
    inputs = [f"{folder}/{name}" for name in optional(partial(temperature_inputs, root, folder)) or []]
    labels = {file: root.known_text(file.replace("_input", "_label")) for file in inputs}
    for beginning in preferred:
        chosen = [file for file in inputs if labels[file].startswith(beginning)]
        if chosen:
            return chosen
    return inputs
