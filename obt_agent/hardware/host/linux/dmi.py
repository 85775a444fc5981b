"""Memory modules, from firmware's SMBIOS table (DSP0134, type 17) or from what udev kept of it.

The table itself is readable by root alone; udev's database, which systemd fills at boot, by everyone. Serial
and asset numbers stand in both, and are never taken up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded, optional
from obt_agent.hardware.inventory import MemoryModule
from obt_agent.hardware.snapshot.root import Root

TABLE = "/sys/firmware/dmi/tables/DMI"
UDEV = "/run/udev/data/+dmi:id"

# Table 78 of DSP0134 3.7.
_TYPES = {
    0x12: "DDR",
    0x13: "DDR2",
    0x18: "DDR3",
    0x1A: "DDR4",
    0x1B: "LPDDR",
    0x1C: "LPDDR2",
    0x1D: "LPDDR3",
    0x1E: "LPDDR4",
    0x20: "HBM",
    0x21: "HBM2",
    0x22: "DDR5",
    0x23: "LPDDR5",
    0x24: "HBM3",
}

_MEMORY_DEVICE, _END = 17, 127
_LEAST_LENGTH = 0x15
_UNKNOWN_WORD, _EXTENDED_SIZE, _EXTENDED_SPEED = 0xFFFF, 0x7FFF, 0xFFFF
_KIB, _MIB = 1 << 10, 1 << 20
# What makers of boards leave where they wrote nothing, without the dot at the end.
_FILLERS = {
    *("unknown", "none", "n/a", "na", "null", "undefined", "invalid", "empty", "oem", "o.e.m", "-"),
    *("not specified", "not applicable", "not available", "not provided", "no dimm", "no enclosure"),
    *("<out of spec>", "<bad index>", "to be filled by o.e.m", "to be filled by oem", "to be filled"),
    *("default string", "system manufacturer", "system product name", "system version", "system name"),
    *("product name", "base board", "base board product name", "board vendor", "chassis manufacturer"),
    *("manufacturer", "version", "bios version", "bios date"),
}

_PATTERN_FILLERS = re.compile(
    r"([x0.*#?_ -])\1*|0?123456789.*|type\d ?-? ?.*|fill by oem.*|to be filled by.*"
)

# Types of table 78 that hold firmware (ROM, flash, EEPROM, FEPROM, EPROM), or are a disk in a slot.
_NOT_MAIN_MEMORY = {0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x1F}

_NOT_MAIN_MEMORY_WORDS = {"rom", "flash", "eeprom", "feprom", "eprom", "logical non-volatile device"}
_MOST_SLOTS = 256


def modules(root: Root) -> tuple[MemoryModule, ...]:
    """The populated slots.

    Raises:
        OSError: neither source can be read.
        Unreadable: firmware reports no module ("not_reported"), or nonsense ("malformed").
    """
    fields = FieldReader()
    found = fields.read("table", lambda: tuple(parse_table(root.data(TABLE))))
    if not found:
        kept = optional(lambda: tuple(parse_udev(root.text(UDEV))))
        found = kept or found
    if not found:
        raise Unreadable(fields.reasons.get("table", "not_reported"))
    return found


def parse_udev(text: str) -> Iterator[MemoryModule]:
    """The modules in udev's record of the DMI device."""
    values = dict(
        line[2:].partition("=")[::2] for line in text.splitlines() if line.startswith("E:MEMORY_DEVICE_")
    )
    for slot in range(_MOST_SLOTS):
        prefix = f"MEMORY_DEVICE_{slot}_"
        if f"{prefix}SIZE" not in values or values.get(f"{prefix}PRESENT") == "0":
            continue
        if values.get(f"{prefix}TYPE", "").strip().lower() in _NOT_MAIN_MEMORY_WORDS:
            continue
        speeds = (f"{prefix}CONFIGURED_SPEED_MTS", f"{prefix}SPEED_MTS")
        yield MemoryModule(
            size_bytes=_count(values[f"{prefix}SIZE"]),
            type=fact(values.get(f"{prefix}TYPE")),
            speed_mt_s=next(filter(None, (_count(values.get(name, "")) for name in speeds)), None),
            locator=fact(values.get(f"{prefix}LOCATOR")),
            bank=fact(values.get(f"{prefix}BANK_LOCATOR")),
        )


def parse_table(table: bytes) -> Iterator[MemoryModule]:
    """The modules in a raw SMBIOS table. Raises Unreadable ("malformed")."""
    for kind, body, strings in _structures(table):
        if kind == _MEMORY_DEVICE and len(body) >= _LEAST_LENGTH and body[0x12] not in _NOT_MAIN_MEMORY:
            size = _size(body)
            if size != 0:
                yield MemoryModule(
                    size_bytes=size,
                    type=_TYPES.get(body[0x12]),
                    speed_mt_s=_speed(body, 0x20, 0x58) or _speed(body, 0x15, 0x54),
                    locator=_string(strings, body[0x10]),
                    bank=_string(strings, body[0x11]),
                )


def _structures(table: bytes) -> Iterator[tuple[int, bytes, list[bytes]]]:
    at = 0
    while at + 4 <= len(table):
        kind, length = table[at], table[at + 1]
        end = table.find(b"\0\0", at + length)
        if length < 4 or end < 0:  # noqa: PLR2004 -- a structure's header has four bytes
            raise Unreadable("malformed")
        yield kind, table[at : at + length], table[at + length : end].split(b"\0")
        if kind == _END:
            return
        at = end + 2


def _number(body: bytes, at: int, width: int = 2) -> int:
    # Structures of older versions are shorter: what they lack is as 0, which says that nobody knows.
    return int.from_bytes(body[at : at + width], "little") if len(body) >= at + width else 0


def _size(body: bytes) -> int | None:
    """Bytes; 0 for an empty slot, None where firmware does not know."""
    word = _number(body, 0x0C)
    if word == _UNKNOWN_WORD:
        return None
    if word == _EXTENDED_SIZE:
        return (_number(body, 0x1C, 4) & 0x7FFFFFFF) * _MIB
    return (word & 0x7FFF) * _KIB if word & 0x8000 else word * _MIB


def _speed(body: bytes, at: int, extended_at: int) -> int | None:
    word = _number(body, at)
    speed = _number(body, extended_at, 4) & 0x7FFFFFFF if word == _EXTENDED_SPEED else word
    return speed or None


def _string(strings: list[bytes], number: int) -> str | None:
    if not 0 < number <= len(strings):
        return None
    return fact(strings[number - 1].decode(errors="replace"))


def _count(text: str) -> int | None:
    """Return a number that is told, for neither a size nor a speed is 0."""
    return int(text) or None if text.isascii() and text.isdigit() else None


def fact(word: str | None) -> str | None:
    """Return a word of DMI's; None for one that only fills the field, or that cannot be shown."""
    plain = (word or "").strip().lower().rstrip(". ")
    if not plain or plain in _FILLERS or _PATTERN_FILLERS.fullmatch(plain):
        return None
    return optional(lambda: bounded(word or ""))
