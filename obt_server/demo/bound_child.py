"""``python -m obt_server.demo.bound_child PARENT COMMAND ...``: become COMMAND, which ends when PARENT does.

By the kernel's parent-death signal and not by a pipe that closes: the programs that the demonstration starts
are those that everybody runs, and read no pipe. The signal is set for this process and stays through
``exec``. It cannot be caught: who is killed at once leaves nobody who would kill a program that does not end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""linux/prctl.h."""


def main(arguments: Sequence[str]) -> int:
    """Become the command; return 1 where the parent is gone already."""
    parent, *command = arguments
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Asked afterwards: a parent that died before the call would send no signal any more.
    if os.getppid() == int(parent):
        os.execv(command[0], command)  # noqa: S606 -- the command of whoever started this, and no shell
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
