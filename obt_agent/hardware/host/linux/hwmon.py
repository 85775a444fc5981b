"""The sensors of one device, as the kernel's hwmon interface has them.

Its units are millidegrees, microwatts, microjoules and hertz.
"""

from __future__ import annotations

import re
from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, non_negative, optional, positive
from obt_agent.hardware.snapshot.root import FileCache, Root

# The kernel's full duty of a fan.
_PWM_MOST = 255
# Degrees that a chip which works may have.
_COLDEST, _HOTTEST = -50, 150
_INPUT = re.compile(r"temp(\d+)_input")


def celsius(millidegrees: int) -> float:
    """Return a sensor's reading in degrees.

    Raise Unreadable when no CPU or GPU can be so hot or cold ("malformed"), and for exactly 0, which drivers
    write where the sensor is not there ("not_reported").
    """
    degrees = millidegrees / 1000
    if degrees == 0:
        raise Unreadable("not_reported")
    if not _COLDEST <= degrees <= _HOTTEST:
        raise Unreadable("malformed")
    return degrees


def temperature_inputs(root: Root, folder: str) -> list[str]:
    """Return the names of a folder's temperature files by number, so that temp2 comes before temp10.

    Raise OSError.
    """
    found = [(int(match[1]), name) for name in root.names(folder) if (match := _INPUT.fullmatch(name))]
    return [name for _, name in sorted(found)]


class Hwmon:
    """One hwmon folder of a device, by its driver's name. Everything raises OSError or Unreadable."""

    def __init__(self, root: Root, device: str, driver: str) -> None:
        self._root = root
        # Sensors are read at every sample: their files stay open.
        self._hot = FileCache(root)
        folders = root.below(f"{device}/hwmon")
        # None where the device has no sensors of this driver.
        self._folder = next((f for f in folders if optional(partial(root.text, f"{f}/name")) == driver), None)

    def celsius(self, *labels: str) -> float:
        """Return the sensor of the first of these labels that is there, else the first sensor.

        A GPU that runs is warmer than 0 °C: drivers write 0 or less for a sensor that is off.
        """
        inputs = temperature_inputs(self._root, self._place())
        by_label = {self.label(name.removesuffix("_input")): name for name in inputs}
        chosen = next((by_label[label] for label in labels if label in by_label), None)
        degrees = self.integer(chosen or next(iter(inputs), "temp1_input")) / 1000
        if degrees <= 0:
            raise Unreadable("not_reported")
        if degrees > _HOTTEST:
            raise Unreadable("malformed")
        return degrees

    def label(self, sensor: str) -> str | None:
        """Return a sensor's label ("temp1" ...), or None."""
        return optional(lambda: self._hot.text(f"{self._place()}/{sensor}_label"))

    def watts(self, *files: str) -> float:
        """Return the first of these files that has a value, in watts; power and limits are never 0."""
        fields = FieldReader()
        for file in files:
            microwatts = fields.read(file, partial(self.integer, file))
            if microwatts is not None and fields.read(file, partial(positive, microwatts)) is not None:
                return microwatts / 1e6
        # A file that is there and has no value says more than one that is not there.
        raise Unreadable(max(fields.reasons.values(), key=lambda reason: reason != "not_present"))

    def joules(self, file: str) -> float:
        """Return an energy counter; one that stands at 0 does not count."""
        return positive(self.integer(file)) / 1e6

    def hertz(self, file: str) -> int:
        """Return a clock; 0 is that of a part that is switched off, or not told."""
        return positive(self.integer(file))

    def fan_ratio(self) -> float:
        """Return the fan's duty, 0 to 1; 0 is a fan that stands, as those of idle cards do."""
        duty = non_negative(self.integer("pwm1"))
        if duty > _PWM_MOST:
            raise Unreadable("malformed")
        return duty / _PWM_MOST

    def integer(self, file: str) -> int:
        """Return any file's number. Raises ValueError too."""
        return self._hot.integer(f"{self._place()}/{file}")

    def close(self) -> None:
        """Close the files."""
        self._hot.close()

    def _place(self) -> str:
        if self._folder is None:
            raise Unreadable("not_present")
        return self._folder
