"""Signals: what asks a program to stop, or to read its configuration again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

# Windows sends SIGBREAK for Ctrl-Break, and from whatever ends a program of another console.
STOP: Final[tuple[signal.Signals, ...]] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)
)
"""Each asks a program to end in order."""

RELOAD: Final[signal.Signals | None] = getattr(signal, "SIGHUP", None)
"""Asks the agent to read its configuration again and to dial at once; None where the system lacks it."""

INTERRUPTING: Final[tuple[signal.Signals, ...]] = tuple(
    number for number in (signal.SIGTERM, RELOAD) if number is not None
)
"""What ends a command as Ctrl-C does; SIGHUP says that its terminal is gone."""


def handle(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, callback: Callable[..., object], *args: object
) -> None:
    """Have the loop call this between two callbacks when the signal comes. For the main thread."""
    try:
        loop.add_signal_handler(number, callback, *args)
    # The loops of Windows cannot: the interpreter's own handler passes it on.
    except NotImplementedError:

        def pass_on(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(callback, *args)

        signal.signal(number, pass_on)


def unhandle(loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
    """Undo ``handle``."""
    try:
        loop.remove_signal_handler(number)
    except NotImplementedError:
        # What asyncio sets too.
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)


def ask_to_reload(pid: int) -> bool:
    """Send ``RELOAD`` to a process; return whether the system has it.

    Raises:
        PermissionError: the process is another user's.
        ProcessLookupError: it has ended.
    """
    if RELOAD is None:
        return False
    os.kill(pid, RELOAD)
    return True
