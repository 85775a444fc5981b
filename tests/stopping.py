"""Processes that are made to do nothing for a while."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

WITHIN_S: Final = 60.0


def stop(pid: int) -> None:
    """Stop a process, and return when none of its threads does anything any more.

    The signal alone is on its way for a moment, in which they go on.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + WITHIN_S
    while not _stands_still(pid):
        assert time.monotonic() < deadline, f"process {pid} goes on"
        time.sleep(0.001)


def _stands_still(pid: int) -> bool:
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        # One that has ended meanwhile does nothing, either.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "TtZX":
                return False
    return True
