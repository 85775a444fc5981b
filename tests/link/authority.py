"""Certificates for tests: an authority, and servers and clients that it vouches for."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import threading
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def key_of(certificate: x509.Certificate) -> str:
    """The pin of a certificate, made by a library and not by the agent's own reading of DER."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256-" + base64.urlsafe_b64encode(hashlib.sha256(info).digest()).decode().rstrip("=")


class Authority:
    """A certificate authority in memory."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def ca_file(self, folder: Path) -> Path:
        """The authority's own certificate, in a file."""
        path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(path))
        return path

    def server(
        self,
        *names: str,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        wants_client: bool = False,
        newest: ssl.TLSVersion | None = None,
    ) -> ssl.SSLContext:
        """A server's context for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if newest is not None:
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = newest
            context.set_ciphers("ALL:@SECLEVEL=0")
        certificate = self._ca.issue_cert(
            *(names or ("localhost",)), not_before=not_before, not_after=not_after
        )
        certificate.configure_cert(context)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def pinned_server(self, *names: str) -> tuple[ssl.SSLContext, str]:
        """A server's context, and the pin of its key."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = self._ca.issue_cert(*(names or ("localhost",)))
        certificate.configure_cert(context)
        return context, key_of(x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()))

    def client_files(self, folder: Path) -> tuple[Path, Path]:
        """A client's certificate and its key."""
        certificate = self._ca.issue_cert("agent@example.org")
        chain, key = folder / "client.pem", folder / "client.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(str(key))
        return chain, key


class AlertingServer:
    """Ends every connection after the handshake, or after the alert that a failed one sends.

    OpenSSL on a blocking socket, as in most servers: asyncio's own server side drops the alert.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"https://localhost:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(5)
                with contextlib.suppress(OSError):
                    self._meet(client)
                client.close()

    def _meet(self, client: socket.socket) -> None:
        secured = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(ssl.SSLError):
            secured.do_handshake()
            secured.recv(1)
        raw = secured.detach()
        with socket.socket(fileno=raw) as plain:
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(4096):
                pass
