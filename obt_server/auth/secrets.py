"""Making and hashing secrets. Tokens are random, so that one sha256 suffices; passwords get scrypt."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from typing import Final

# 32 MiB and about 0.1 s: for whoever signs in, and for each guess at a stolen hash.
_N: Final = 1 << 15
_R: Final = 8
_P: Final = 1
_SCRYPT_MEMORY: Final = 64 << 20
# The password may be all that stands between the internet and the machines.
MIN_PASSWORD_CHARS: Final = 10
MAX_PASSWORD_CHARS: Final = 1024


def new_secret(prefix: str) -> str:
    """256 random bits, with a prefix that says what it is for (and that secret scanners can look for)."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def new_password() -> str:
    """100 random bits, easy to type."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))


def password_problem(password: str) -> str | None:
    """Return why that can be no password; None where it can."""
    if MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        return None
    return f"a password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters"


def sha256(secret: str) -> str:
    """Hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def hash_password(password: str) -> str:
    """Scrypt with a salt, as text. Takes about 0.1 s: not for the event loop."""
    salt = os.urandom(16)
    digest = _scrypt(password, salt, _N, _R, _P)
    return f"scrypt${_N}${_R}${_P}${_text(salt)}${_text(digest)}"


def check_password(password: str, stored: str) -> bool:
    """Whether the password is the one that was hashed. Takes as long as hashing."""
    # The parameters stand in the hash, so that others may be chosen without making old passwords wrong.
    _, n, r, p, salt, digest = stored.split("$")
    found = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, base64.b64decode(digest))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_SCRYPT_MEMORY, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
