"""Tables for people, as wide as the terminal, in which no name is broken."""

from __future__ import annotations

import os
from typing import IO, Final

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.measure import Measurement

# Room for the widest table of prose; a pipe or a file has no width of its own.
_PIPE_COLUMNS: Final = 120
# Wider than any table: rich measures within the width that it is given.
_UNLIMITED: Final = 10_000


def console_for(file: IO[str]) -> Console:
    """Return a console as wide as the terminal; for a file or a pipe, which nobody can widen, a wide one."""
    return Console(file=file, width=None if _has_width(file) else _PIPE_COLUMNS)


def print_table(console: Console, table: RenderableType, *, folds: bool = False) -> None:
    """Print a table, or several things of which some are tables, with every word whole.

    A terminal that is narrower than the longest words beside each other wraps the lines itself, so that a
    name can still be selected and searched for; unless the table ``folds`` its cells there. In a pipe or a
    file each row is one line.
    """
    needed = Measurement.get(console, console.options.update(max_width=_UNLIMITED), table)
    at_terminal = 0 if folds else needed.minimum
    least = at_terminal if _has_width(console.file) else needed.maximum
    usual = console.size
    # The whole size: to a width alone, rich prefers 80 columns on a dumb terminal.
    console.size = ConsoleDimensions(max(usual.width, least), usual.height)
    console.print(table, crop=False)
    console.size = usual


def _has_width(file: IO[str]) -> bool:
    return file.isatty() or "COLUMNS" in os.environ
