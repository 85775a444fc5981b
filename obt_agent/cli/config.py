"""``obt-agent config``: what the configuration says, where each value came from, and whether it is right."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from obt_agent.argument_parser import JSON_OPTION, PlainArgumentParser, add_options
from obt_agent.cli import exit_codes
from obt_agent.cli.common import load_config, to_stderr
from obt_agent.cli.options import CONFIG_OPTIONS, add_config_options
from obt_agent.config.describe import for_owner
from obt_agent.config.file import find, user_file
from obt_agent.config.problems import ConfigProblem, WrongConfig
from obt_agent.config.reference import example
from obt_agent.text_output import print_json


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the command's arguments."""
    parts = parser.add_subparsers(
        dest="part",
        required=True,
        metavar="show|path|check|example",
        leading={**CONFIG_OPTIONS, **JSON_OPTION},
    )
    show = parts.add_parser("show", help="every key, its value (secrets masked) and where it came from")
    add_options(show, JSON_OPTION)
    show.add_argument("--changed", action="store_true", help="only what is not a default")
    path = parts.add_parser("path", help="the file that is read")
    check = parts.add_parser("check", help="all that is wrong, at once; exit 78 if anything is")
    parts.add_parser("example", help="a configuration with every key, its meaning and its default")
    for part in (show, path, check):
        add_config_options(part)


def run(args: argparse.Namespace) -> int:
    """Run the part that was asked for."""
    return {"show": _show, "path": _path, "check": _check, "example": _example}[args.part](args)


def _show(args: argparse.Namespace) -> int:
    loaded = load_config(args, log=False)
    shown = [one for one in for_owner(loaded) if not args.changed or one.origin.kind != "default"]
    if args.json:
        print_json({one.key: {"value": one.value, "origin": str(one.origin)} for one in shown})
        return exit_codes.OK
    to_stderr(f"# {loaded.path or 'no configuration file'}")
    # Long values would push all origins out of sight.
    width = max((len(f"{one.key}: {_text(one.value)}") for one in shown), default=0)
    for one in shown:
        print(f"{f'{one.key}: {_text(one.value)}':<{min(width, 72)}}  # {one.origin}")
    return exit_codes.OK


def _path(args: argparse.Namespace) -> int:
    path, _ = find(args.config, os.environ)
    if path is None:
        to_stderr(f"There is no configuration file; the first that would be read is {user_file(os.environ)}")
        return exit_codes.FAILED
    print(path)
    return exit_codes.OK


def _check(args: argparse.Namespace) -> int:
    """Check as ``run`` does, and whether the files that the configuration names can be read."""
    loaded = load_config(args, need_server=True, log=False)
    server = loaded.config.server
    # Rules look at no file: whether these can be read is seen here, before a start fails over it.
    named = {
        "server.token_file": server.token_file,
        "server.ca_file": server.ca_file,
        "server.client_cert_file": server.client_cert_file,
        "server.client_key_file": server.client_key_file,
    }
    problems = [
        ConfigProblem(where=str(loaded.origins[key]), key=key, text=text)
        for key, path in named.items()
        if path and (text := _unreadable(path))
    ]
    if problems:
        raise WrongConfig(problems)
    print(f"{loaded.path or 'The configuration'} is right.")
    return exit_codes.OK


def _example(args: argparse.Namespace) -> int:
    del args
    print(example(), end="")
    return exit_codes.OK


def _unreadable(path: str) -> str | None:
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return str(value) if isinstance(value, str) and value else json.dumps(value)
