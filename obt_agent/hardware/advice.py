"""What a person can do about a reading that could not be had. Pure."""

from __future__ import annotations

from obt_agent.hardware.schema import REASONS

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

_BY_WORDS = (
    ("kernel driver is not loaded", "load it (modprobe nvidia), or install NVIDIA's driver"),
    (
        "library is not installed",
        "install NVIDIA's driver with libnvidia-ml.so.1; into a container it comes with --gpus all",
    ),
    (
        "/dev/nvidia*",
        "see who may open them (ls -l /dev/nvidia*), and that no container hides them",
    ),
    ("crashed when tried", "reinstall NVIDIA's driver; the agent goes on without it, and tries again"),
    ("differ in version", "reboot, or reload NVIDIA's kernel modules: the driver was upgraded underneath"),
    ("no driver of", "load the GPU's kernel driver"),
    ("PCI ID database", "install the package hwdata or pci.ids"),
    ("refused for now", "nothing, if it passes; else see dmesg for the driver's own words"),
    ("needs a reset", "reset the GPU or reboot; see dmesg for Xid errors"),
)

_BY_REASON = {
    "no_permission": "add the agent's user to the groups video and render",
    "stalled": "see dmesg; the agent goes on, and tries again by itself",
    "lost": "see dmesg (NVIDIA: Xid 79); a reboot usually brings it back",
    "not_running": "start Ollama, and see that ProtectProc= or hidepid does not hide it",
    "driver_error": "see dmesg for the driver's own words",
}


def advice(field: str, reason: str) -> str | None:
    """What to do, or None where nothing needs to be done or can be."""
    word = reason.partition(":")[0]
    told = _BY_FIELD.get(field, {}).get(word)
    if told is not None:
        return told
    return next((words for sign, words in _BY_WORDS if sign in reason), _BY_REASON.get(word))


def explained(reason: str) -> str:
    """A reason in words."""
    word, colon, words = reason.partition(": ")
    return words if colon else REASONS.get(word, word)
