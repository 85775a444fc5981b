"""What tells this machine from another."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from obt_agent.system.machine_id import machine_id


def machine_hash(salt: str, root: Path = Path("/")) -> str | None:
    """The machine's id, as HMAC-SHA256 under the salt in hexadecimal; None where there is none.

    ``machine-id(5)`` asks that the id itself be kept confidential, and hashed with something of one's own.
    """
    text = machine_id(root)
    return None if text is None else hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()
