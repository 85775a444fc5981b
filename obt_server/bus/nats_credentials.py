"""What shows NATS who connects: a file with user and password, a token, or a .creds file of NATS."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from obt_agent.errors import ConfigError
from obt_agent.identity.secret_file import read_secret_file

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----\s+(\S+)\s+-+END \1-+")
_MAX_BYTES: Final = 64 << 10
_SEED_AT: Final = slice(2, 34)
"""In a decoded seed: behind the kind of key, before the checksum."""


@dataclass(frozen=True)
class NatsCredentials:
    """Of one of the three kinds; nothing for a NATS that asks for none.

    Args:
        user: with ``password``.
        password: of the user.
        token: instead of both.
        jwt: gives the user's JWT, with ``sign``.
        sign: signs what NATS sent, and returns that in base64.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    jwt: Callable[[], bytes] | None = None
    sign: Callable[[str], bytes] | None = None


def no_credentials() -> NatsCredentials:
    """Return those for a NATS that asks for none."""
    return NatsCredentials()


def from_file(path: Path) -> NatsCredentials:
    """Read a file that somebody wrote for this: ``USER:PASSWORD``, a token, or a .creds file of ``nsc``.

    Raises:
        ConfigError: it cannot be read, others can read it, or it is none of them.
    """
    try:
        text = read_secret_file(path, of="credentials for NATS", max_bytes=_MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8, expected credentials for NATS") from error
    blocks = dict(_BLOCK.findall(text))
    if blocks:
        return _of_blocks(path, blocks)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise ConfigError(f"{path}: write one line, USER:PASSWORD or a token, or give a .creds file of NATS")
    user, colon, password = lines[0].partition(":")
    return NatsCredentials(user=user, password=password) if colon else NatsCredentials(token=user)


def _of_blocks(path: Path, blocks: dict[str, str]) -> NatsCredentials:
    try:
        jwt = blocks["NATS USER JWT"].encode()
        seed = blocks["USER NKEY SEED"]
        # base64 in 32 characters, without the filling at the end
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
        key = Ed25519PrivateKey.from_private_bytes(raw[_SEED_AT])
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{path}: no .creds file of NATS with a user's JWT and its seed") from error
    return NatsCredentials(jwt=lambda: jwt, sign=lambda nonce: base64.b64encode(key.sign(nonce.encode())))
