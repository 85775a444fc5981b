"""What a person can do about a reading that could not be had. Pure."""

from __future__ import annotations

from obt_agent.hardware.field_reader import REASONS
from obt_agent.hardware.gpu.registry import VENDORS

_BY_FIELD = {
    "ollama_version": {"not_reported": "start Ollama, or set ollama.url to where it listens"},
    "package_energy_joules": {
        "no_permission": "see docs/reference/hardware.md for a udev rule, if you want the CPU's energy",
    },
    "modules": {
        "no_permission": "start the agent after systemd's udev has run once, or as root for one look",
    },
    "gpu_memory_bytes": {"no_permission": "run the agent as Ollama's user"},
}

# By words in a reason, which say more than the reason's first word; vendors add their own.
_BY_WORDS = {
    "no driver of": "load the GPU's kernel driver",
    "PCI ID database": "install the package hwdata or pci.ids",
    "refused for now": "nothing, if it passes; else see dmesg for the driver's own words",
    **{words: todo for vendor in VENDORS for words, todo in vendor.advice.items()},
}

# For any field and any source.
_BY_REASON = {
    "no_permission": "add the agent's user to the groups video and render",
    "stalled": "see dmesg; the agent goes on, and tries again by itself",
    "lost": "see dmesg for the driver's own words; a reboot usually brings it back",
    "not_running": "start Ollama, and see that ProtectProc= or hidepid does not hide it",
    "driver_error": "see dmesg for the driver's own words",
}


def advice(field: str, reason: str) -> str | None:
    """What to do, or None where nothing needs to be done or can be."""
    word = reason.partition(":")[0]
    remedy = _BY_FIELD.get(field, {}).get(word)
    if remedy is not None:
        return remedy
    return next((todo for words, todo in _BY_WORDS.items() if words in reason), _BY_REASON.get(word))


def reason_text(reason: str) -> str:
    """A reason in words."""
    word, colon, words = reason.partition(": ")
    return words if colon else REASONS.get(word, word)
