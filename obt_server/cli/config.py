"""``obt-server config``: what the settings are, where each comes from, and whether they are right.

Shows the settings as obt-server run with the same options would have them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from obt_agent.argument_parser import JSON_OPTION, add_options
from obt_agent.config.file import find, user_file
from obt_agent.text_output import print_json
from obt_server.cli import run
from obt_server.cli.options import load_settings
from obt_server.config.load import SERVER, example


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    run.add_arguments(parser)
    parser.set_defaults(work=lambda options: _PARTS[options.part](options))
    parser.add_argument(
        "part",
        nargs="?",
        choices=list(_PARTS),
        default="show",
        help="show: every setting and its origin (the default); path: the file that is read; check: whether "
        "run would take them; example: a file with every setting, its meaning and its default",
    )
    add_options(parser, JSON_OPTION)
    parser.add_argument("--changed", action="store_true", help="show: only what is not a default")


def _show(options: argparse.Namespace) -> int:
    loaded = load_settings(options)
    shown = [name for name in SERVER.keys if not options.changed or loaded.origins[name].kind != "default"]
    if options.json:
        whole = {name: {"value": loaded.value(name), "origin": str(loaded.origins[name])} for name in shown}
        print_json(whole)
        return 0
    print(f"# {loaded.path or 'no configuration file'}", file=sys.stderr)
    lines = {name: f"{name}: {json.dumps(loaded.value(name))}" for name in shown}
    width = min(max(map(len, lines.values()), default=0), _WIDTH)
    for name, line in lines.items():
        print(f"{line:<{width}}  # {loaded.origins[name]}")
    return 0


_WIDTH = 72
"""Long values would push all origins out of sight."""


def _path(options: argparse.Namespace) -> int:
    path, _ = find(options.config, os.environ, SERVER)
    if path is None:
        first = user_file(os.environ, SERVER)
        print(f"There is no settings file; the first that would be read is {first}", file=sys.stderr)
        return 1
    print(path)
    return 0


def _check(options: argparse.Namespace) -> int:
    """Check as ``run`` does before it opens anything."""
    run.check(run.completed(options))
    print("The settings are right.")
    return 0


def _example(_: argparse.Namespace) -> int:
    print(example(), end="")
    return 0


_PARTS = {"show": _show, "path": _path, "check": _check, "example": _example}
