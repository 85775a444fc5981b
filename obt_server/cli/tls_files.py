"""The certificate and its key, checked before the server starts: what is wrong, and what to do."""

from __future__ import annotations

import argparse
import getpass
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from obt_agent.config.load import ProcessContext
from obt_server.auth.self_signed import own_certificate
from obt_server.cli.options import UsageError
from obt_server.config.load import default_database
from obt_server.store.address import parse

# What a PEM file of each kind holds; keys are of several kinds (RSA, EC, PKCS #8).
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"
# More than any chain; a device or a disk image is not read to its end.
_MOST_BYTES: Final = 1 << 20
# What OpenSSL calls a key that belongs to another certificate, of the same kind or of another.
_OF_ANOTHER: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"})


def check_tls_files(cert: Path, key: Path) -> None:
    """See whether a server can use the two.

    Raises:
        UsageError: it cannot; the message names the file and the remedy.
    """
    if _CERTIFICATE not in _read(cert, "--tls-cert"):
        raise UsageError(f"{cert} holds no certificate in PEM form: give the chain to --tls-cert")
    if _KEY not in _read(key, "--tls-key"):
        raise UsageError(f"{key} holds no private key in PEM form: give the certificate's key to --tls-key")
    # A service has nobody to ask for the password of a key.
    encrypted = f"{key} is encrypted: write it without a password (openssl pkey -in {key} -out PLAIN)"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, lambda: _refuse(encrypted))
    except ssl.SSLError as error:
        if error.reason in _OF_ANOTHER:
            raise UsageError(
                f"{key} is not the key of {cert}: give the two that were made together (openssl x509 -noout "
                f"-pubkey -in {cert} and openssl pkey -pubout -in {key} print the same then)"
            ) from error
        raise UsageError(f"{cert} and {key} cannot be used: {error.reason or error}") from error


def make_certificate(options: argparse.Namespace, names: Iterable[str]) -> None:
    """Put the files of the server's own certificate into the options; made where they are missing.

    Raises:
        UsageError: its key cannot be used, or one of the names cannot be in a certificate.
        OSError: a file cannot be read or written.
    """
    try:
        options.tls_cert, options.tls_key = own_certificate(_folder_of(options), names)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _folder_of(options: argparse.Namespace) -> Path:
    """Return where the server keeps files of its own: beside the SQLite file, or where that would be."""
    database = parse(options.database)
    return (database if isinstance(database, Path) else default_database(ProcessContext())).parent


def _read(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}: give {option} one that is there") from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read by {_user()}: {error.strerror}. Let that user read it, or give {option} "
            "a copy"
        ) from error


def _user() -> str:
    try:
        return getpass.getuser()
    # In a container there may be no name for the number.
    except (KeyError, OSError):
        return "this user"


def _refuse(message: str) -> str:
    raise UsageError(message)
