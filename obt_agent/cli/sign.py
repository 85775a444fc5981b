"""Sign a request for an agent whose owner lists signers. Runs on an operator's machine, never on the server.

Prints the object for the field "signature" of the request. --new-key makes a key and prints its public half,
for policy.signers. PARAMS is a JSON file, or - for standard input. --prepared signs a text that the server
prepared, after it was shown: what runs is what that text says, whoever wrote it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from obt_agent.cli import exit_codes
from obt_agent.errors import ConfigError, InvalidParams
from obt_agent.policy.signing import load_key, new_key, sign, sign_text
from obt_agent.printable import printable
from obt_agent.protocol.signed import MAX_WINDOW_S, SIGNED_JOBS, SIGNED_METHODS, SignedText, read_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the private key (PEM)")
    parser.add_argument("--new-key", action="store_true", help="make FILE, and print the public key")
    parser.add_argument("--agent", metavar="ID", help="the agent's id, as obt-agent status shows it")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long it is valid (3600)")
    parser.add_argument(
        "--prepared", metavar="FILE", help="a text of obt-server prepare or the page; - reads"
    )
    parser.add_argument("--yes", action="store_true", help="with --prepared: sign without asking")
    parser.add_argument("method", nargs="?", choices=sorted(SIGNED_METHODS), metavar="METHOD")
    parser.add_argument("params", nargs="?", metavar="PARAMS", help="the request's parameters")


def run(args: argparse.Namespace) -> int:
    """Make a key, or sign."""
    if args.new_key:
        print(new_key(args.key))
        return exit_codes.OK
    if args.prepared:
        return _sign_prepared(args)
    if not (args.agent and args.method and args.params):
        print("obt-agent sign: --agent, METHOD and PARAMS are needed", file=sys.stderr)
        return exit_codes.USAGE
    text, key = _read(args.params, args.key)
    try:
        params = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{args.params} is not JSON: {error}.") from error
    print(json.dumps(sign(key, args.agent, args.method, params, time.time(), args.seconds)))
    return exit_codes.OK


def _sign_prepared(args: argparse.Namespace) -> int:
    """Show what a prepared text makes run, ask, and sign exactly its bytes."""
    text, key = _read(args.prepared, args.key)
    try:
        content = read_text(text)
        params = json.loads(bytes(content.params))
    except (InvalidParams, ValueError) as error:
        raise ConfigError(f"The prepared text cannot be signed: {error}") from error
    # What the agent would refuse anyway, refused here where it can still be prepared anew.
    if not 0 < content.not_after - content.not_before <= MAX_WINDOW_S:
        raise ConfigError("The prepared text is valid for more than 7 days, or for no time.")
    if content.method in SIGNED_JOBS and (not isinstance(params, dict) or params.get("job_id") != content.id):
        raise ConfigError("The prepared text's id is not the job's.")
    print(_shown(content, params), file=sys.stderr)
    if not args.yes:
        # The text came from a server that is not trusted: a person reads it, unless a program decided.
        if args.prepared == "-" or not sys.stdin.isatty():
            print("obt-agent sign: --yes is needed where nobody can be asked", file=sys.stderr)
            return exit_codes.USAGE
        print("Sign it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return exit_codes.FAILED
    print(json.dumps(sign_text(key, text)))
    return exit_codes.OK


def _shown(content: SignedText, params: Any) -> str:
    times = (_time(at) for at in (content.not_before, content.not_after))
    return "\n".join(
        [
            f"method      {content.method}",
            f"agent       {printable(content.agent_id)}",
            f"id          {printable(content.id)}",
            f"valid       {' to '.join(times)}",
            # As ASCII: nothing in it reaches the terminal as anything but text.
            f"parameters  {json.dumps(params, indent=2)}",
        ]
    )


def _time(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError) as error:
        raise ConfigError(f"The prepared text's time {at} is none.") from error


def _read(source: str, key: Path) -> tuple[str, Any]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
        return text.strip(), load_key(key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the key or the request: {error}.") from error
