"""Sign a request for an agent whose owner lists signers. Runs on an operator's machine, never on the server.

Prints the object for the field "signature" of the request. --new-key makes a key and prints its public half,
for policy.signers. PARAMS is a JSON file, or - for standard input.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obt_agent.cli import exit_codes
from obt_agent.errors import ConfigError
from obt_agent.policy.signatures import MAX_WINDOW_S, PURPOSE, SIGNED_METHODS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


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
        print(_made(args.key))
        return exit_codes.OK
    if not (args.agent and args.method and args.params):
        print("obt-agent sign: --agent, METHOD and PARAMS are needed", file=sys.stderr)
        return exit_codes.USAGE
    try:
        params = json.loads(sys.stdin.read() if args.params == "-" else Path(args.params).read_text("utf-8"))
        key = _loaded(args.key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the key or the parameters: {error}.") from error
    print(json.dumps(sign(key, args.agent, args.method, params, time.time(), args.seconds)))
    return exit_codes.OK


def sign(
    key: Ed25519PrivateKey, agent_id: str, method: str, params: dict[str, Any], now: float, seconds: float
) -> dict[str, str]:
    """Return the object for ``params.signature``."""
    text = json.dumps(
        {
            "purpose": PURPOSE,
            "method": method,
            "agent_id": agent_id,
            "id": params.get("job_id") or str(uuid.uuid4()),
            "not_before": now,
            "not_after": now + min(seconds, MAX_WINDOW_S),
            "params": params,
        }
    )
    value = key.sign(text.encode())
    public = key.public_key().public_bytes_raw()
    return {"text": text, "key": base64.b64encode(public).decode(), "value": base64.b64encode(value).decode()}


def _made(file: Path) -> str:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - other commands need none of it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - the same

    key = Ed25519PrivateKey.generate()
    try:
        # Never over another key, and for its owner alone from the beginning.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"{file} cannot be made: {error.strerror}.") from error
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _loaded(file: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - as above

    key = load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{file} holds no Ed25519 key")  # noqa: TRY004 - a file's content, not a type
    return key
