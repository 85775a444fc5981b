"""``obt-server prepare``: write the text that an operator signs for an agent whose owner lists signers."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from obt_agent.argument_parser import PlainArgumentParser
from obt_agent.protocol.signed import SIGNED_METHODS
from obt_server.cli.options import UsageError, duration_up_to
from obt_server.cli.stored import OpenStorage, set_stored_work
from obt_server.rest.signed import prepare


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the command's arguments."""
    set_stored_work(parser, _prepare)
    parser.add_argument("agent", metavar="AGENT", help="id or unique name")
    parser.add_argument("method", metavar="METHOD", choices=sorted(SIGNED_METHODS), help="what shall run")
    parser.add_argument("params", metavar="PARAMS", help="a JSON file with its parameters, or -")
    parser.add_argument(
        "--valid-for",
        metavar="TIME",
        type=duration_up_to(7),
        default=3600.0,
        help="like 30m, 1h, 7d (default: 1h)",
    )


def _read(source: str) -> dict[str, Any]:
    try:
        params = json.loads(sys.stdin.read() if source == "-" else Path(source).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the parameters: {error}") from error
    if not isinstance(params, dict):
        raise UsageError("the parameters must be a JSON object")
    return params


async def _prepare(stored: OpenStorage, options: argparse.Namespace) -> int:
    params = _read(options.params)
    agent_id = await stored.agent_id(options.agent)
    # Nothing is stored or sent: the text is all that there is, and whoever signs it reads it.
    print(prepare(agent_id, options.method, params, options.valid_for).text)
    return 0
