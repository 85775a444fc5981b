"""``python -m obt_server.demo.bound_child PARENT COMMAND ...``: become COMMAND, which ends when PARENT does.

By the kernel's parent-death signal and not by a pipe that closes: the programs that the demonstration starts
are those that everybody runs, and read no pipe. Linux alone has it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from obt_agent.system.processes import end_with_parent


def main(arguments: Sequence[str]) -> int:
    """Become the command; return 1 where the parent is gone already."""
    parent, *command = arguments
    end_with_parent()
    # Asked afterwards: a parent that died before the call would send no signal any more.
    if os.getppid() == int(parent):
        os.execv(command[0], command)  # noqa: S606 -- the command of whoever started this, and no shell
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
