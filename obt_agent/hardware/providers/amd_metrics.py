"""amdgpu's gpu_metrics: a binary table, of which version 1.3 (discrete cards) is read.

Layout: struct gpu_metrics_v1_3 in the kernel's kgd_pp_interface.h; bits of ``indep_throttle_status``:
SMU_THROTTLER_*_BIT in amdgpu_smu.h. Other versions have other layouts, and are not guessed at.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from obt_agent.hardware.readings import Unreadable

_HEADER = struct.Struct("<HBB")
_ENERGY_AT, _THROTTLE_AT, _LEAST_SIZE = 24, 112, 120
_ENERGY_UNIT_JOULES = 2.0**-16
_UNKNOWN = 0xFFFFFFFFFFFFFFFF

_THROTTLERS = (
    (range(8), "power"),
    (range(16, 24), "current"),
    (range(32, 46), "thermal"),
    (range(46, 48), "processor_hot"),
    (range(56, 58), "firmware"),
)
"""Groups of bits, as the header's comments group them."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is used of the table."""

    energy_joules: float | None
    throttle_reasons: tuple[str, ...]


def parse(table: bytes) -> Metrics:
    """Read version 1.3.

    Raises:
        Unreadable: it is another version ("no_source"), or too short ("malformed").
    """
    if len(table) < _HEADER.size:
        raise Unreadable("malformed")
    size, major, minor = _HEADER.unpack_from(table)
    if (major, minor) != (1, 3):
        raise Unreadable(f"no_source: version {major}.{minor} of the driver's table is not read")
    if size < _LEAST_SIZE or len(table) < _LEAST_SIZE:
        raise Unreadable("malformed")
    (energy,) = struct.unpack_from("<Q", table, _ENERGY_AT)
    (throttle,) = struct.unpack_from("<Q", table, _THROTTLE_AT)
    if throttle == _UNKNOWN:
        raise Unreadable("not_reported")
    known = energy not in (0, _UNKNOWN)
    return Metrics(
        energy_joules=energy * _ENERGY_UNIT_JOULES if known else None,
        throttle_reasons=tuple(
            name for bits, name in _THROTTLERS if any(throttle >> bit & 1 for bit in bits)
        ),
    )
