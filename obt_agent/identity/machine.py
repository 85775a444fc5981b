"""What tells this machine from another."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

# In the order in which D-Bus and systemd prefer them.
_MACHINE_IDS: Final = ("etc/machine-id", "var/lib/dbus/machine-id")
_MAX_CHARS: Final = 128


def machine_hash(salt: str, root: Path = Path("/")) -> str | None:
    """The machine's id, as HMAC-SHA256 under the salt in hexadecimal; None where there is none.

    ``machine-id(5)`` asks that the id itself be kept confidential, and hashed with something of one's own.
    """
    for name in _MACHINE_IDS:
        text = _first_line(root / name)
        # So says systemd's file in an image that has not booted yet.
        if text and text != "uninitialized":
            return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()
    return None


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_CHARS).decode("ascii", "replace").strip()
    except OSError:
        return ""
