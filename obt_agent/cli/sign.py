"""Sign a request for an agent whose owner lists signers. Runs on an operator's machine, never on the server.

Prints the object for the field "signature" of the request. --new-key makes a key and prints its public half,
for policy.signers. PARAMS is a JSON file, or - for standard input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from obt_agent.cli import exit_codes
from obt_agent.errors import ConfigError
from obt_agent.policy.signatures import SIGNED_METHODS
from obt_agent.policy.signing import load_key, new_key, sign


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key (PEM)")
    parser.add_argument("--new-key", action="store_true", help="make FILE, and print the public key")
    parser.add_argument("--agent", metavar="ID", help="the agent's id, as obt-agent status shows it")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long it is valid (3600)")
    parser.add_argument("method", nargs="?", choices=sorted(SIGNED_METHODS), metavar="METHOD")
    parser.add_argument("params", nargs="?", metavar="PARAMS", help="the request's parameters")


def run(args: argparse.Namespace) -> int:
    """Make a key, or sign."""
    if args.new_key:
        print(new_key(args.key))
        return exit_codes.OK
    if not (args.agent and args.method and args.params):
        print("obt-agent sign: --agent, METHOD and PARAMS are needed", file=sys.stderr)
        return exit_codes.USAGE
    try:
        params = json.loads(sys.stdin.read() if args.params == "-" else Path(args.params).read_text("utf-8"))
        key = load_key(args.key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the key or the parameters: {error}.") from error
    print(json.dumps(sign(key, args.agent, args.method, params, time.time(), args.seconds)))
    return exit_codes.OK
