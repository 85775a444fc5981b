"""What several commands share: where the database is, and values of options."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from obt_agent.argument_parser import OptionTable, add_options


class UsageError(Exception):
    """The arguments cannot be used; exit status 2."""


def default_database() -> Path:
    """``$OBT_SERVER_DATABASE``, else in the data folder of the user, or of services where a user has none."""
    named = os.environ.get("OBT_SERVER_DATABASE")
    if named:
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    try:
        return Path(data).expanduser() / "obt-server" / "obt.sqlite3"
    except RuntimeError:
        # Every command names the default in its help: none of them may fail over it.
        return Path("/var/lib/obt-server/obt.sqlite3")


def database_option() -> OptionTable:
    """The option of everything that opens the database."""
    words = "SQLite file (default: $OBT_SERVER_DATABASE, else %(default)s)"
    return {
        "--database": {"type": Path, "default": default_database(), "metavar": "FILE", "help": words},
    }


def add_database(parser: argparse.ArgumentParser) -> None:
    """Add it to a command."""
    add_options(parser, database_option())


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if re.fullmatch(r"[0-9]{1,9}", text) is None or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number, 1 or more")
    return int(text)


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHORTEST_S: Final = 60


def duration_up_to(days: int) -> Callable[[str], float]:
    """A reader of ``90s``, ``30m``, ``1h``, ``7d`` as seconds: one minute to so many days."""

    def read(text: str) -> float:
        # Bounded digits: float("1e999") and "٣h" are no durations either.
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])", text)
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not _SHORTEST_S <= seconds <= days * 86400:
            raise argparse.ArgumentTypeError(f"{text!r}: write 30m, 1h or 7d; one minute to {days} days")
        return seconds

    return read


def port(text: str) -> int:
    """A port's number; 0 is any free one."""
    # int() alone takes "+80", " 80" and "8_0" too.
    if re.fullmatch(r"[0-9]{1,5}", text) is None or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r}: a port is a number from 0 to {_LAST_PORT}")
    return int(text)


_LAST_PORT: Final = 65535


def when(at: float) -> str:
    """Unix seconds for a person."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
