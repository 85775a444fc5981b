"""Keys and signatures of those who sign requests: used on an operator's machine, never by the daemon."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from obt_agent.errors import ConfigError
from obt_agent.protocol.signed import text_to_sign
from obt_agent.system import descriptors


def sign(
    key: Ed25519PrivateKey, agent_id: str, method: str, params: dict[str, Any], now: float, seconds: float
) -> dict[str, str]:
    """Return the object for ``params.signature``."""
    return sign_text(key, text_to_sign(agent_id, method, params, now, seconds))


def sign_text(key: Ed25519PrivateKey, text: str) -> dict[str, str]:
    """Return the object for ``params.signature``, of a text that says exactly what is to run."""
    value = key.sign(text.encode())
    public = key.public_key().public_bytes_raw()
    return {"text": text, "key": base64.b64encode(public).decode(), "value": base64.b64encode(value).decode()}


def new_key(file: Path) -> str:
    """Make a private key in a new file; return its public half in base64.

    Raises:
        ConfigError: the file is there already, or cannot be made.
    """
    key = Ed25519PrivateKey.generate()
    try:
        # Never over another key, and for its owner alone from the beginning.
        descriptor = os.open(file, descriptors.MAKE, 0o600)
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


def load_key(file: Path) -> Ed25519PrivateKey:
    """Return the private key in a PEM file. Raise ``ValueError`` when it holds none, or another kind."""
    key = load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{file} holds no Ed25519 key")  # noqa: TRY004 - a file's content, not a type
    return key
