"""A certificate that the server makes for itself. Agents go by its key, which their join tokens name.

The key stays when the certificate is made anew, so that no agent notices.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from obt_agent.system.replace_file import replace_file

CERTIFICATE: Final = "tls-cert.pem"
KEY: Final = "tls-key.pem"
VALID: Final = timedelta(days=825)
"""The longest that Apple's systems take."""
RENEWED_BEFORE: Final = VALID / 2
"""A server is restarted more often than that, and looks at its certificate each time."""
_CLOCKS_DIFFER: Final = timedelta(days=1)


def own_certificate(folder: Path, names: Iterable[str], now: datetime | None = None) -> tuple[Path, Path]:
    """Return the files of a certificate for these names and of its key, made where they are missing.

    Args:
        folder: where the two are, or will be.
        names: host names and addresses that the server is reached by.
        now: the time of day.

    Raises:
        ValueError: the key's file holds none.
        OSError: a file cannot be read or written.
    """
    now = now or datetime.now(UTC)
    wanted = tuple(dict.fromkeys(names))
    cert_file, key_file = folder / CERTIFICATE, folder / KEY
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = _key(key_file)
    if not _is_good(cert_file, key, wanted, now):
        certificate = _certificate(key, wanted, now)
        replace_file(cert_file, certificate.public_bytes(Encoding.PEM), mode=0o644)
    return cert_file, key_file


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        replace_file(file, text, mode=0o600)
        return key
    try:
        found = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} holds no key: put a copy of it back, or remove it for a new one") from error
    # Another kind was put there by somebody, who means --tls-key.
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{file} is no key of an elliptic curve: give a key of your own to --tls-key")  # noqa: TRY004 - what a file holds is no fault of types
    return found


def _is_good(file: Path, key: ec.EllipticCurvePrivateKey, names: tuple[str, ...], now: datetime) -> bool:
    """Whether the certificate there is of this key, for these names, and for some time to come."""
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        shown = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    return (
        _public(certificate.public_key()) == _public(key.public_key())
        and list(shown) == _general_names(names)
        and certificate.not_valid_before_utc <= now
        and certificate.not_valid_after_utc - now > RENEWED_BEFORE
    )


def _public(key: object) -> bytes:
    # Of other kinds too: somebody may have put another certificate there.
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]  # each kind of public key has it
    return encoded


def _general_names(names: tuple[str, ...]) -> list[x509.GeneralName]:
    return [_general_name(name) for name in names]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)


def _certificate(key: ec.EllipticCurvePrivateKey, names: tuple[str, ...], now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "obt-server")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now - _CLOCKS_DIFFER + VALID)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        # As an authority, since some programs let nothing else vouch for itself (RFC 5280, 4.2.1.9).
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
    )
    return builder.sign(key, hashes.SHA256())


_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
