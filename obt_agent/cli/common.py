"""What commands share: the configuration that their options name, and output for the person who reads it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from typing import Any

import msgspec

from obt_agent.cli.options import KEY_FLAGS
from obt_agent.config.load import LoadedConfig, load
from obt_agent.log_setup.setup import LogSettings, configure


def load_config(
    args: argparse.Namespace, *, need_server: bool = False, log: bool = True, may_be_missing: bool = False
) -> LoadedConfig:
    """Return the configuration that the options name. What its reader should know goes to standard error.

    With ``log``, what the program's packages log goes there as well: warnings, unless a level is set. With
    ``may_be_missing`` a file that is named need not exist yet.

    Raises:
        WrongConfig: it cannot be used.
    """
    loaded = read_config(args, need_server=need_server, may_be_missing=may_be_missing)
    for notice in loaded.notices:
        to_stderr(f"Note: {notice}.")
    if loaded.dotenv:
        to_stderr(f"Note: some values come from {loaded.dotenv}; obt-agent config show says which.")
    if log:
        _log_to_terminal(loaded)
    return loaded


def read_config(
    args: argparse.Namespace, *, need_server: bool = False, may_be_missing: bool = False
) -> LoadedConfig:
    """Return what ``load_config`` does, and say nothing.

    Raises:
        WrongConfig: it cannot be used.
    """
    # A flag of its own wins over --set of the same key, wherever the two stand.
    flags = {key: ("--set", text) for key, text in args.settings}
    for flag, key in KEY_FLAGS.items():
        if (text := getattr(args, f"key:{key}")) is not None:
            flags[key] = (flag, text)
    return load(args.config, flags=flags, need_server=need_server, may_be_missing=may_be_missing)


def given_options(args: argparse.Namespace, *, without: Collection[str] = ()) -> list[str]:
    """Return the options that were given, as words of another command; the keys ``without`` are left out."""
    words = ["--config", args.config] if args.config else []
    for flag, key in KEY_FLAGS.items():
        if key not in without and (text := getattr(args, f"key:{key}")) is not None:
            words += [flag, text]
    return words + [word for key, text in args.settings for word in ("--set", f"{key}={text}")]


def _log_to_terminal(loaded: LoadedConfig) -> None:
    log = loaded.config.log
    # "info" is the daemon's level: beside a command's own output its lines would only be in the way.
    level = "warning" if loaded.origins["log.level"].kind == "default" else log.level
    configure(
        LogSettings(level=level, format="json" if log.format == "json" else "console", prompts=log.prompts)
    )


def as_json(value: Any) -> str:
    """Return a value as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def to_stderr(text: str) -> None:
    """Print a line for the person at the terminal; standard output is left to results."""
    print(text, file=sys.stderr)
