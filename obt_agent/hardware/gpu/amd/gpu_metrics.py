"""amdgpu's gpu_metrics: a binary table in many versions, of which two are read.

Layouts: struct gpu_metrics_v1_3 (cards) and gpu_metrics_v1_4 (accelerators) in the kernel's
kgd_pp_interface.h; the bits of version 1.3's ``indep_throttle_status``: SMU_THROTTLER_*_BIT in amdgpu_smu.h.
The unit of the energy counter is documented for 1.4 alone; on cards with 1.3 it is evidently another, and
goes unread.
"""

from __future__ import annotations

import struct

from obt_agent.hardware.field_reader import Unreadable

# Size of the table, and its version: major and minor.
_HEADER = struct.Struct("<HBB")
_ENERGY_AT, _THROTTLE_AT, _LEAST_SIZE = 24, 112, {(1, 3): 120, (1, 4): 32}
# 15.259 uJ, as the header's comment has it.
_ENERGY_UNIT_JOULES = 2.0**-16
# What the firmware leaves in fields that it does not fill in.
_UNKNOWN = 0xFFFFFFFFFFFFFFFF
_CARD, _ACCELERATOR = (1, 3), (1, 4)

# Groups of bits, as the header's comments group them.
_THROTTLERS = (
    (range(8), "power"),
    (range(16, 24), "current"),
    (range(32, 46), "thermal"),
    (range(46, 48), "processor_hot"),
    (range(56, 58), "firmware"),
)


def energy_joules(table: bytes) -> float:
    """The energy counter, which version 1.4 has in units of 2^-16 J.

    Raises:
        Unreadable: the version has none that is documented ("no_source"), or it is not filled in.
    """
    _check(table, _ACCELERATOR)
    # A counter that stands at 0 was never started.
    (energy,) = struct.unpack_from("<Q", table, _ENERGY_AT)
    if energy in (0, _UNKNOWN):
        raise Unreadable("not_reported")
    return float(energy) * _ENERGY_UNIT_JOULES


def throttle_reasons(table: bytes) -> tuple[str, ...]:
    """What holds the clocks, which version 1.3 tells alike for all cards.

    Raises:
        Unreadable: the version tells it in each chip's own way ("no_source"), or it is not filled in.
    """
    _check(table, _CARD)
    (throttle,) = struct.unpack_from("<Q", table, _THROTTLE_AT)
    if throttle == _UNKNOWN:
        raise Unreadable("not_reported")
    return tuple(name for bits, name in _THROTTLERS if any(throttle >> bit & 1 for bit in bits))


def _check(table: bytes, wanted: tuple[int, int]) -> None:
    if len(table) < _HEADER.size:
        raise Unreadable("malformed")
    size, major, minor = _HEADER.unpack_from(table)
    if (major, minor) != wanted:
        raise Unreadable(f"no_source: version {major}.{minor} of the driver's table is not documented for it")
    if min(size, len(table)) < _LEAST_SIZE[wanted]:
        raise Unreadable("malformed")
