"""The wall clock as Go writes it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

# ``keep_alive: -1`` shows as a moment in 2319.
_FOREVER_NS = 11_017_719_375 * 10**9


def rfc3339(at_ns: int | None = None) -> str:
    """Unix nanoseconds (now when None) as Ollama prints them: UTC, trailing zeros cut."""
    seconds, nanos = divmod(time.time_ns() if at_ns is None else at_ns, 10**9)
    # Go leaves out trailing zeros, and the point where nothing follows it.
    fraction = f"{nanos:09d}".rstrip("0")
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{fraction}Z" if fraction else f"{whole}Z"


def expiry(keep_alive_s: float | None) -> str:
    """When a model unloads that is kept for so long from now; None means never."""
    return rfc3339(_FOREVER_NS if keep_alive_s is None else time.time_ns() + int(keep_alive_s * 1e9))
