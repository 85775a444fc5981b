"""What the service tells systemd (``Type=notify``): ready, a status line, reloading, stopping, signs of life.

Outside systemd every call does nothing, so that callers need not ask where they run. The protocol is that of
``sd_notify(3)``: one datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Final

from obt_agent.system.sockets import datagrams

STATUS_LIMIT: Final = 256
"""Characters of a status line that ``systemctl status`` shows without wrapping it away."""


class Notifier:
    """Sends to systemd's notification socket; never raises, never blocks, never reads.

    ``environ`` is the environment that systemd gave the process. A datagram that cannot be delivered is
    dropped: a service must not fail because nobody listens to its status.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Read where systemd listens, and its watchdog's period; the default is the process's environment."""
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval_s: Final = _watchdog_interval_s(environ) if self._address is not None else None
        """Seconds between two calls of ``watchdog``: half of what systemd waits. None without a watchdog."""

    @property
    def active(self) -> bool:
        """Whether somebody listens: the process runs under ``Type=notify``."""
        return self._address is not None

    def ready(self, text: str = "") -> None:
        """Tell that the service has started, or that a reload has ended; ``text`` becomes the status line."""
        self._send("READY=1", *_status(text))

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(*_status(text))

    def reloading(self) -> None:
        """Tell that the configuration is being read again; ``ready`` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, text: str = "") -> None:
        """Tell that an orderly shutdown has begun."""
        self._send("STOPPING=1", *_status(text))

    def watchdog(self) -> None:
        """Give a sign of life; systemd kills a service that owes one for longer than ``WatchdogSec``."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        with contextlib.suppress(OSError), datagrams() as out:
            out.settimeout(0)
            out.sendto("\n".join(lines).encode(), self._address)


def _status(text: str) -> tuple[str, ...]:
    """Give the status line as one line: a newline would start another assignment."""
    line = " ".join(text.split())[:STATUS_LIMIT]
    return (f"STATUS={line}",) if line else ()


def _address(value: str) -> str | None:
    """Give the socket's address (a path, or ``@name`` in the abstract namespace); None if there is none."""
    if value.startswith("@") and len(value) > 1:
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Give half of systemd's watchdog period; None if there is none, or it is for another process."""
    try:
        period_us = int(environ.get("WATCHDOG_USEC", ""))
        pid = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return period_us / 2_000_000 if period_us > 0 and pid == os.getpid() else None
