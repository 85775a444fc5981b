"""One change of the service at a time, and an orderly end of it when it is interrupted."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from obt_agent.errors import Busy
from obt_agent.file_lock import Locked, lock
from obt_agent.service.paths import ServicePaths
from obt_agent.system.directory import OpenDirectory
from obt_agent.system.signals import INTERRUPTING


@contextlib.contextmanager
def hold_lock(paths: ServicePaths) -> Iterator[int]:
    """Hold the lock of those who change the service; gives its descriptor, for children to hold it too.

    A child that outlives a parent that was killed so keeps the next command from working beside it.

    Raises:
        Busy: another one works.
    """
    # A folder of systemd's, which is there wherever a service can be, and gone at the next boot.
    folder = OpenDirectory(paths.root / "run/systemd/system")
    try:
        lock(folder.descriptor)
        yield folder.descriptor
    except Locked as error:
        raise Busy("Another obt-agent service command is at work. Try again when it has ended.") from error
    finally:
        folder.close()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP (the terminal is gone) as Ctrl-C: what is half made is removed."""
    before = take_interrupts()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take_interrupts() -> dict[signal.Signals, Any]:
    """Do so from now on, also where a loop that closed set them back; return what handled them before."""
    return {number: signal.signal(number, _interrupt) for number in INTERRUPTING}


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
