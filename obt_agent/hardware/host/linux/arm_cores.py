"""Names of Arm's cores by the numbers that Linux prints instead (MIDR_EL1), after the vendors' manuals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from obt_agent.hardware.field_reader import Unreadable

_ARM, _CAVIUM, _FUJITSU, _HISILICON, _NVIDIA, _QUALCOMM, _APPLE, _AMPERE = (
    *(0x41, 0x43, 0x46, 0x48),
    *(0x4E, 0x51, 0x61, 0xC0),
)

_IMPLEMENTERS = {
    _ARM: "ARM",
    _CAVIUM: "Cavium",
    _FUJITSU: "Fujitsu",
    _HISILICON: "HiSilicon",
    _NVIDIA: "NVIDIA",
    _QUALCOMM: "Qualcomm",
    _APPLE: "Apple",
    _AMPERE: "Ampere",
}

_PARTS = {
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0C): "Neoverse N1",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD40): "Neoverse V1",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD42): "Cortex-A78AE",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD48): "Cortex-X2",
    (_ARM, 0xD49): "Neoverse N2",
    (_ARM, 0xD4B): "Cortex-A78C",
    (_ARM, 0xD4C): "Cortex-X1C",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4E): "Cortex-X3",
    (_ARM, 0xD4F): "Neoverse V2",
    (_ARM, 0xD85): "Cortex-X925",
    (_ARM, 0xD87): "Cortex-A725",
    (_FUJITSU, 0x001): "A64FX",
    (_HISILICON, 0xD01): "Kunpeng 920",
    (_NVIDIA, 0x004): "Carmel",
    (_APPLE, 0x022): "Icestorm (M1)",
    (_APPLE, 0x023): "Firestorm (M1)",
    (_APPLE, 0x032): "Blizzard (M2)",
    (_APPLE, 0x033): "Avalanche (M2)",
    (_AMPERE, 0xAC3): "Ampere-1",
    (_AMPERE, 0xAC4): "Ampere-1a",
}


def vendor(implementer: str) -> str:
    """Who made the core. Raises ValueError."""
    number = int(implementer, 0)
    return _IMPLEMENTERS.get(number, f"implementer {number:#x}")


def name(processors: Iterable[Mapping[str, str]]) -> str:
    """The names of all kinds of cores of /proc/cpuinfo's blocks, in their order there.

    Raises:
        Unreadable: one of them is not known ("not_reported").
    """
    found = dict.fromkeys(_numbers(block) for block in processors)
    names = [_PARTS[key] for key in found if key in _PARTS]
    if not names or len(names) != len(found):
        raise Unreadable("not_reported")
    return " + ".join(names)


def part(processor: Mapping[str, str]) -> str | None:
    """One core's name, or its part number; None where it is not one of Arm's."""
    key = _numbers(processor)
    if key is None:
        return None
    return _PARTS.get(key) or f"part {key[1]:#x}"


def _numbers(processor: Mapping[str, str]) -> tuple[int, int] | None:
    try:
        return int(processor["CPU implementer"], 0), int(processor["CPU part"], 0)
    except (KeyError, ValueError):
        return None
