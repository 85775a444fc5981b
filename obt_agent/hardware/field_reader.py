"""Reading with no lies: a value, or null and the reason for it."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from obt_agent.errors import HardwareError

T = TypeVar("T")

# What drivers and firmware leave in counters that they do not fill in: all bits, of 32 or of 63 and more.
_UNKNOWN_U32 = 0xFFFFFFFF
_UNKNOWN_U64 = 2**63 - 1

REASONS: dict[str, str] = {
    "no_permission": "the operating system refuses the agent's user",
    "not_supported": "the device or its driver does not offer it",
    "not_present": "the kernel shows no such file or device",
    "not_reported": "the source answered with its mark for an unknown value",
    "malformed": "the source answered something that is not a value",
    "inconsistent": "the value contradicts another of the same reading (more used than there is)",
    "driver_error": "the driver answered with an error",
    "stalled": "the driver has not answered within its deadline",
    "lost": "the device is gone, or its driver says so",
    "suspended": "the device sleeps, and reading it would wake it",
    "unified_memory": "the device has no memory of its own",
    "needs_two_readings": "a rate needs an earlier reading; the next sample has it",
    "no_source": "no public interface of this kind of device gives it",
    "not_running": "Ollama's processes were not found",
}
"""Every word that ``unavailable`` uses, and what it means."""

_BY_ERRNO = {
    errno.EACCES: "no_permission",
    errno.EPERM: "driver_error: refused for now, as while the device is being reset or falls asleep",
    errno.ENOENT: "not_present",
    errno.ENODEV: "not_present",
    errno.ENXIO: "not_present",
    errno.ENOTDIR: "not_present",
    errno.ESRCH: "not_present",
    errno.EOPNOTSUPP: "not_supported",
    errno.EINVAL: "not_supported",  # amdgpu's answer for a sensor that the board lacks
    errno.ENODATA: "not_reported",
}


class Unreadable(HardwareError):
    """A reading that could not be had.

    ``reason`` is a word of ``REASONS``, perhaps with ": " and words after it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def reason_of(error: BaseException) -> str:
    """The word of ``REASONS`` for an error met while reading."""
    if isinstance(error, Unreadable):
        return error.reason
    if isinstance(error, OSError):
        name = errno.errorcode.get(error.errno or 0, "unknown error")
        return _BY_ERRNO.get(error.errno or 0, f"driver_error: {name}")
    return "malformed"


class FieldReader:
    """Collects, field by field, why a struct's fields are null."""

    def __init__(self) -> None:
        # By field, why it is null; a field that was read is not in here. It becomes ``unavailable`` as it is.
        self.reasons: dict[str, str] = {}

    def read(self, field: str, source: Callable[[], T]) -> T | None:
        """What ``source`` returns; None, with the reason noted, when it raises or is not finite."""
        try:
            value = source()
        # Whatever a file with nonsense in it makes a parser raise; anything else is a fault of the program.
        except (OSError, ValueError, LookupError, OverflowError, HardwareError) as error:
            self.reasons[field] = reason_of(error)
            return None
        # JSON has no such numbers.
        if isinstance(value, float) and not math.isfinite(value):
            self.reasons[field] = "malformed"
            return None
        return value

    def first(self, field: str, *sources: Callable[[], T]) -> T | None:
        """The first source that gives a value; else None with the last source's reason."""
        for source in sources:
            value = self.read(field, source)
            if value is not None:
                # A source before it may have failed; that is of no interest now.
                self.reasons.pop(field, None)
                return value
        return None

    def note(self, field: str, reason: str) -> None:
        """Say why a field is null."""
        self.reasons[field] = reason


def each(sources: Iterable[Callable[[], T]]) -> list[T]:
    """Return what those sources give that can be read, for a maximum or a sum over many devices.

    One device that is switched off must not hide all others. Raise Unreadable when none can be read, with the
    reason of the last; "not_present" where there are none.
    """
    reasons = FieldReader()
    found = [value for source in sources if (value := reasons.read("", source)) is not None]
    if not found:
        raise Unreadable(reasons.reasons.get("", "not_present"))
    return found


def optional(source: Callable[[], T]) -> T | None:
    """What ``source`` returns, or None when it cannot be read, for fields whose absence needs no reason."""
    return FieldReader().read("", source)


def bounded(text: str, limit: int = 200) -> str:
    """A word from the system, made fit to show: printable, trimmed, at most ``limit`` characters.

    Raises:
        Unreadable: nothing is left ("not_reported").
    """
    cleaned = "".join(c for c in text if c.isprintable()).strip()[:limit]
    if not cleaned:
        raise Unreadable("not_reported")
    return cleaned


def non_negative(value: int) -> int:
    """The same number.

    Raises:
        Unreadable: it is negative, or a driver's mark for "unknown" (all bits of 32 or of 63 and more).
    """
    if value < 0:
        raise Unreadable("malformed")
    if value == _UNKNOWN_U32 or value >= _UNKNOWN_U64:
        raise Unreadable("not_reported")
    return value


def positive(value: int) -> int:
    """Return the number, of something that is never 0: a limit, a size, the power of a device that is on.

    Raises:
        Unreadable: it is 0, which then is a driver's way to say that it does not know ("not_reported"); or
            as ``non_negative``.
    """
    if non_negative(value) == 0:
        raise Unreadable("not_reported")
    return value
