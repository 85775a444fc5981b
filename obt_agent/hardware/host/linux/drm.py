"""What DRM drivers tell of a GPU's memory when asked on its render node, and sysfs does not have.

Layouts and numbers are those of the kernel's headers xe_drm.h, i915_drm.h and amdgpu_drm.h. The questions
need no privilege but to open the node (mostly the group render). Only a GPU that is awake may be asked.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from obt_agent.hardware.field_reader import Unreadable, non_negative
from obt_agent.hardware.host.linux.pci import PciGpu
from obt_agent.hardware.snapshot.root import Root
from obt_agent.system.descriptors import ask_device

XE_DEVICE_QUERY, I915_QUERY, AMDGPU_INFO = 0xC0286440, 0xC0106479, 0x40206445
_XE_MEM_REGIONS, _I915_MEMORY_REGIONS, _AMDGPU_DEV_INFO = 1, 4, 0x16

# Extensions, query, size, pointer.
_XE_REQUEST = struct.Struct("<QIIQ16x")
# Items, flags, pointer; and of an item its id, length, flags, pointer.
_I915_REQUEST, _I915_ITEM = struct.Struct("<IIQ"), struct.Struct("<QiIQ")
# Pointer, size, query.
_AMDGPU_REQUEST = struct.Struct("<QII16x")
# No driver has so much to say; a greater length is not one of its answers.
_MOST_BYTES = 1 << 16

_COUNT = struct.Struct("<I")
# Class, instance, alignment, size in bytes; then its use, which only monitors get.
_REGION = struct.Struct("<HHIQ72x")
# Where the regions begin, after the count and what else stands before them.
_FIRST_REGION = {"xe": 8, "i915": 16}
_DEVICE_MEMORY = 1

# As much of the answer as is read, and where in it the fields stand.
_AMDGPU_INFO_BYTES = 184
_UNITS_AT, _FLAGS_AT, _TYPE_AT = 48, 136, 176
# AMDGPU_IDS_FLAGS_FUSION: the GPU is part of a processor.
_FUSION = 1
_AMDGPU_TYPES = {
    1: "GDDR1",
    2: "DDR2",
    3: "GDDR3",
    4: "GDDR4",
    5: "GDDR5",
    6: "HBM",
    7: "DDR3",
    8: "DDR4",
    9: "GDDR6",
    10: "DDR5",
    11: "LPDDR4",
    12: "LPDDR5",
    13: "HBM3E",
}


@dataclass(frozen=True, slots=True)
class AmdDevice:
    """Part of amdgpu's description of a GPU; None where the driver does not know."""

    integrated: bool
    compute_units: int
    memory_type: str | None
    bus_width_bits: int | None


def card_bytes(root: Root, gpu: PciGpu) -> int:
    """The size of an Intel card's own memory.

    Raises:
        OSError: its node is not there, is closed to the agent's user, or the driver refuses.
        Unreadable: it says nothing of such memory.
    """
    driver = gpu.driver or ""
    question = {"xe": _ask_xe, "i915": _ask_i915}[driver]
    return parse_regions(root.ask(render_node(root, gpu), driver, question), driver)


def amd_device(root: Root, gpu: PciGpu) -> AmdDevice:
    """What amdgpu says of a GPU. Raises as ``card_bytes``."""
    return parse_amdgpu(root.ask(render_node(root, gpu), "amdgpu", _ask_amdgpu))


def render_node(root: Root, gpu: PciGpu) -> str:
    """The file in /dev that takes questions without a right to the display. Raises OSError, Unreadable."""
    folder = f"{gpu.path}/drm"
    for name in root.names(folder):
        if name.startswith("renderD") and root.exists(f"{folder}/{name}"):
            return f"/dev/dri/{name}"
    raise Unreadable("not_present")


def parse_regions(answer: bytes, driver: str) -> int:
    """Bytes of all regions of a card's own memory. Raises Unreadable."""
    start = _FIRST_REGION[driver]
    if len(answer) < start:
        raise Unreadable("malformed")
    (count,) = _COUNT.unpack_from(answer)
    if start + count * _REGION.size > len(answer):
        raise Unreadable("malformed")
    regions = _REGION.iter_unpack(answer[start : start + count * _REGION.size])
    total = sum(non_negative(size) for kind, _, _, size in regions if kind == _DEVICE_MEMORY)
    if total == 0:
        raise Unreadable("not_reported")
    return total


def parse_amdgpu(answer: bytes) -> AmdDevice:
    """The start of struct drm_amdgpu_info_device. Raises Unreadable."""
    if len(answer) < _AMDGPU_INFO_BYTES:
        raise Unreadable("malformed")
    (flags,) = struct.unpack_from("<Q", answer, _FLAGS_AT)
    kind, width = struct.unpack_from("<II", answer, _TYPE_AT)
    return AmdDevice(
        integrated=bool(flags & _FUSION),
        compute_units=_COUNT.unpack_from(answer, _UNITS_AT)[0],
        memory_type=_AMDGPU_TYPES.get(kind),
        bus_width_bits=width or None,
    )


def _ask_xe(descriptor: int) -> bytes:
    def ask(size: int, pointer: int) -> int:
        request = bytearray(_XE_REQUEST.pack(0, _XE_MEM_REGIONS, size, pointer))
        ask_device(descriptor, XE_DEVICE_QUERY, request)
        return int(_XE_REQUEST.unpack(request)[2])

    return _sized(ask)


def _ask_i915(descriptor: int) -> bytes:
    def ask(size: int, pointer: int) -> int:
        item = ctypes.create_string_buffer(
            _I915_ITEM.pack(_I915_MEMORY_REGIONS, size, 0, pointer), _I915_ITEM.size
        )
        ask_device(descriptor, I915_QUERY, bytearray(_I915_REQUEST.pack(1, 0, ctypes.addressof(item))))
        length = int(_I915_ITEM.unpack(item.raw)[1])
        if length < 0:  # so it tells the error of one item
            raise OSError(-length, os.strerror(-length))
        return length

    return _sized(ask)


def _sized(ask: Callable[[int, int], int]) -> bytes:
    """Ask with no room first: the driver says how much its answer needs."""
    size = ask(0, 0)
    if not 0 < size <= _MOST_BYTES:
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    room = ctypes.create_string_buffer(size)
    ask(size, ctypes.addressof(room))
    return room.raw


def _ask_amdgpu(descriptor: int) -> bytes:
    room = ctypes.create_string_buffer(_AMDGPU_INFO_BYTES)
    request = _AMDGPU_REQUEST.pack(ctypes.addressof(room), _AMDGPU_INFO_BYTES, _AMDGPU_DEV_INFO)
    ask_device(descriptor, AMDGPU_INFO, request)
    return room.raw
