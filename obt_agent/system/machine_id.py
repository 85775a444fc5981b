"""What the system says tells this machine from another: confidential, and hashed before it is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

# In the order in which D-Bus and systemd prefer them.
_FILES: Final = ("etc/machine-id", "var/lib/dbus/machine-id")
_MAX_CHARS: Final = 128
# It is asked once at the start, which must not hang.
_WITHIN_S: Final = 5.0
# By its full path: PATH is whoever's who started the agent.
_IOREG: Final = ("/usr/sbin/ioreg", "-r", "-d", "1", "-c", "IOPlatformExpertDevice")
_PLATFORM_UUID: Final = re.compile(r'"IOPlatformUUID" = "([0-9A-Fa-f-]{36})"')


def machine_id(root: Path = Path("/")) -> str | None:
    """Return the machine's id; None where it has none, or does not tell.

    Args:
        root: where the files of Linux and the BSDs are looked for; the other systems have no files.
    """
    if sys.platform == "darwin":
        return platform_uuid(_output(_IOREG))
    if sys.platform == "win32":
        return _machine_guid()
    for name in _FILES:
        text = _first_line(root / name)
        # So says systemd's file in an image that has not booted yet.
        if text and text != "uninitialized":
            return text
    return None


def platform_uuid(ioreg: str) -> str | None:
    """Return the hardware's UUID from what ``ioreg`` prints of a Mac's platform expert."""
    found = _PLATFORM_UUID.search(ioreg)
    return found[1] if found else None


def _output(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - words of ours, never through a shell
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _machine_guid() -> str | None:
    if sys.platform == "win32":
        import winreg  # noqa: PLC0415 - Windows alone has it

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography") as key:
                return str(winreg.QueryValueEx(key, "MachineGuid")[0])
        except OSError:
            return None
    return None


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_CHARS).decode("ascii", "replace").strip()
    except OSError:
        return ""
