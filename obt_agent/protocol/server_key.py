"""The server's public key as agents pin it: ``sha256-…``, in join tokens and in the answer to a hello. Pure.

The key and not the certificate: a certificate that is renewed for the same key stays known.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

Pin = Annotated[
    str,
    Meta(
        pattern=r"^sha256-[A-Za-z0-9_-]{43}$",
        description="SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 5280), in base64url after sha256-",
    ),
]
# A present key, one that follows, and room for a third while a change is called off.
Pins = Annotated[tuple[Pin, ...], Meta(max_length=4)]

# The label keeps apart what may have dots of its own: another server's join token may be a JWT.
_WITH_PINS: Final = re.compile(r"(?P<secret>.+?)(?P<pins>(?:\.sha256-[A-Za-z0-9_-]{43})+)", re.ASCII)
_SEQUENCE: Final = 0x30
_EXPLICIT_VERSION: Final = 0xA0
_LONG_LENGTH: Final = 0x80
# serialNumber, signature, issuer, validity, subject: what stands before the key (RFC 5280, 4.1).
_FIELDS_BEFORE_KEY: Final = 5


def with_pins(secret: str, pins: Sequence[str]) -> str:
    """Return a join token's text: the secret, then the keys that the server may show."""
    return ".".join((secret, *pins))


def split_join_token(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a join token's secret, and the pins behind it; none of a token that names no key."""
    found = _WITH_PINS.fullmatch(text)
    return (found["secret"], tuple(found["pins"][1:].split("."))) if found else (text, ())


def pin_of(certificate: bytes) -> str:
    """Return the pin of a certificate in DER.

    Raises:
        ValueError: it is no certificate.
    """
    digest = hashlib.sha256(_public_key(certificate)).digest()
    return f"sha256-{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def _public_key(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo as it stands there, with its own tag and length.

    Read by hand: the library that can would take 10 MB of the daemon's memory for these few bytes.
    """
    # Certificate, and in it tbsCertificate.
    _, start, _ = _element(certificate, 0, _SEQUENCE)
    _, at, _ = _element(certificate, start, _SEQUENCE)
    tag, _, end = _element(certificate, at)
    # The version is left out of certificates of version 1.
    if tag == _EXPLICIT_VERSION:
        at = end
    for _ in range(_FIELDS_BEFORE_KEY):
        _, _, at = _element(certificate, at)
    _, _, end = _element(certificate, at, _SEQUENCE)
    return certificate[at:end]


def _element(data: bytes, at: int, expected: int | None = None) -> tuple[int, int, int]:
    """The tag of the DER element at an offset, and where its content begins and ends."""
    if at + 2 > len(data):
        raise ValueError("the certificate ends too early")
    tag, length, start = data[at], data[at + 1], at + 2
    if length >= _LONG_LENGTH:
        size = length - _LONG_LENGTH
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    end = start + length
    if end > len(data) or (expected is not None and tag != expected):
        raise ValueError("this is no certificate")
    return tag, start, end
