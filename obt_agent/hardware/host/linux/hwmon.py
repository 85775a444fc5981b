"""The sensors of one device, as the kernel's hwmon interface has them.

Its units are millidegrees, microwatts, microjoules and hertz.
"""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.field_reader import Unreadable, non_negative, optional
from obt_agent.hardware.host.linux.cpu import celsius
from obt_agent.hardware.snapshot.root import FileCache, Root

_PWM_MOST = 255


class Hwmon:
    """One hwmon folder of a device, by its driver's name. Everything raises OSError or Unreadable."""

    def __init__(self, root: Root, device: str, driver: str) -> None:
        self._root = root
        self._hot = FileCache(root)
        names = optional(partial(root.names, f"{device}/hwmon")) or []
        folders = [f"{device}/hwmon/{name}" for name in names]
        self._folder = next((f for f in folders if optional(partial(root.text, f"{f}/name")) == driver), None)

    def celsius(self, *labels: str) -> float:
        """The sensor of the first of these labels that is there, else the first sensor."""
        names = [name for name in self._root.names(self._place()) if name.startswith("temp")]
        inputs = [name for name in names if name.endswith("_input")]
        by_label = {self.label(name.removesuffix("_input")): name for name in inputs}
        chosen = next((by_label[label] for label in labels if label in by_label), None)
        if chosen is None:
            chosen = inputs[0] if inputs else "temp1_input"
        return celsius(self.integer(chosen))

    def label(self, sensor: str) -> str | None:
        """A sensor's label ("temp1" ...), or None."""
        return optional(lambda: self._hot.text(f"{self._place()}/{sensor}_label"))

    def watts(self, *files: str) -> float:
        """The first of these files that is there, in watts."""
        for file in files[:-1]:
            value = optional(partial(self.integer, file))
            if value is not None:
                return non_negative(value) / 1e6
        return non_negative(self.integer(files[-1])) / 1e6

    def joules(self, file: str) -> float:
        """An energy counter."""
        return non_negative(self.integer(file)) / 1e6

    def hertz(self, file: str) -> int:
        """A clock."""
        return non_negative(self.integer(file))

    def fan_ratio(self) -> float:
        """The fan's duty, 0 to 1."""
        duty = non_negative(self.integer("pwm1"))
        if duty > _PWM_MOST:
            raise Unreadable("malformed")
        return duty / _PWM_MOST

    def integer(self, file: str) -> int:
        """Any file's number. Raises ValueError too."""
        return self._hot.integer(f"{self._place()}/{file}")

    def close(self) -> None:
        """Let go of the files."""
        self._hot.close()

    def _place(self) -> str:
        if self._folder is None:
            raise Unreadable("not_present")
        return self._folder
