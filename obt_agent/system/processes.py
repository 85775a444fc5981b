"""Groups of processes, and a child that ends with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""linux/prctl.h."""


def pause_group(leader: int) -> None:
    """Stop a group of processes without ending it; do nothing where the system cannot."""
    _send(leader, "SIGSTOP")


def resume_group(leader: int) -> None:
    """Let a paused group go on."""
    _send(leader, "SIGCONT")


def end_group(leader: int) -> None:
    """Ask a group of processes to end; on Windows its leader is ended at once."""
    _send(leader, "SIGTERM")


def kill_group(leader: int) -> None:
    """End a group of processes at once."""
    _send(leader, "SIGKILL" if hasattr(signal, "SIGKILL") else "SIGTERM")


def _send(leader: int, name: str) -> None:
    number: signal.Signals | None = getattr(signal, name, None)
    if number is None:
        return
    with contextlib.suppress(ProcessLookupError):
        # Windows has no groups, and os.kill ends a process there whatever the signal.
        if hasattr(os, "killpg"):
            os.killpg(leader, number)
        else:
            os.kill(leader, number)


def end_with_parent() -> None:
    """Have the kernel end this process when the one that started it does; do nothing but on Linux.

    The signal cannot be caught: who is killed at once leaves nobody who would kill a program that does not
    end. It stays set through ``exec``.
    """
    # Other systems have nothing of the kind that is set from within the child.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
