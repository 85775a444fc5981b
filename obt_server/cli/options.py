"""What several commands share: where the database is, and values of options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from obt_agent.argument_parser import OptionTable, add_options
from obt_server.config.load import SERVER, LoadedOptions, load


class UsageError(Exception):
    """The arguments cannot be used; exit status 2."""


OPTION_OF_KEY: Final[Mapping[str, str]] = {
    "database.address": "--database",
    "listen.host": "--host",
    "listen.port": "--port",
    "listen.tls_cert_file": "--tls-cert",
    "listen.tls_key_file": "--tls-key",
    "listen.tls_self_signed": "--tls-self-signed",
    "listen.next_tls_cert_file": "--next-tls-cert",
    "listen.behind_proxy": "--behind-proxy",
    "listen.allowed_hosts": "--allowed-host",
    "listen.root_path": "--root-path",
    "agents.max_results_bytes": "--agent-results-mib",
    "agents.max_unasked_results_bytes": "--agent-unasked-mib",
    "operators.first_password_file": "--first-password-file",
    "bus.address": "--bus",
    "bus.credentials_file": "--bus-credentials-file",
    "bus.ca_file": "--bus-ca-file",
    "gateway.enabled": "--gateway",
    "log.level": "--log-level",
    "log.format": "--log-format",
    "log.requests": "--log-requests",
}
"""Settings that have an option; the others are set in the file, or by a variable."""


def database_option() -> OptionTable:
    """The options of everything that opens the database."""
    of_file = "settings (default: $OBT_SERVER_CONFIG, else ~/.config/obt-server/server.yaml, else "
    of_database = (
        "SQLite file, or postgresql+psycopg://USER@HOST/NAME (default: $OBT_SERVER_DATABASE, else "
        "database.address of the settings, else "
    )
    # Without defaults: what is not given here is looked for in variables and the file (``load_settings``).
    return {
        "--config": {"metavar": "FILE", "help": f"{of_file}{SERVER.system_file})"},
        "--database": {
            "metavar": "ADDRESS",
            "help": f"{of_database}obt-server/obt.sqlite3 in the user's data folder)",
        },
    }


def add_database(parser: argparse.ArgumentParser) -> None:
    """Add it to a command."""
    add_options(parser, database_option())


def load_settings(options: argparse.Namespace) -> LoadedOptions:
    """Return the settings, in which the options that were given win over variables and the file.

    Raises:
        WrongConfig: one of them cannot be used.
    """
    flags = {}
    for key, option in OPTION_OF_KEY.items():
        value = getattr(options, option.lstrip("-").replace("-", "_"), None)
        if value is not None:
            flags[key] = option, _text(option, value)
    return load(options.config, flags=flags)


def _text(option: str, value: Any) -> str:
    """Return an option's value as the file would have it."""
    if isinstance(value, list):
        return ",".join(value)
    return f"{value} MiB" if option.endswith("-mib") else str(value)


def database_of(options: argparse.Namespace) -> str:
    """Return the address of the database that a command works on. Raise WrongConfig."""
    return load_settings(options).config.database.address


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
    """Unix seconds for a person, whatever was stored: a list must show the row, so that it can be removed."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return "after the year 9999" if at > 0 else "before the year 1"
