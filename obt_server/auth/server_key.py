"""The keys of the server's own TLS, which agents pin; and whether they need to."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from obt_agent.protocol.server_key import pin_of

_END: Final = "-----END CERTIFICATE-----"
_MAX_FLIGHTS: Final = 8
"""Of a handshake; TLS 1.2 with a client that offers nothing takes four."""


@dataclass(frozen=True)
class ServerKeys:
    """Pins of a server's keys.

    ``shown`` are those of the present key and of the next, for agents that pin keys; ``in_tokens`` those that
    join tokens name: none where any agent can check the certificate by itself.
    """

    shown: tuple[str, ...] = ()
    in_tokens: tuple[str, ...] = ()


def server_keys(cert: Path, key: Path, following: Path | None = None) -> ServerKeys:
    """Return the keys of a server with that certificate and, if given, the one that will follow it.

    A key that a public authority vouches for is in no token: such certificates are renewed with new keys
    every few weeks, by programs that announce none.

    Raises:
        ValueError: a file holds no certificate.
        OSError: one cannot be read.
    """
    shown = tuple(dict.fromkeys(_pin(path) for path in (cert, following) if path is not None))
    return ServerKeys(shown, () if _is_trusted_here(cert, key) else shown)


def _pin(path: Path) -> str:
    """The pin of a chain's first certificate, which is the server's own."""
    text = path.read_text(encoding="ascii", errors="replace")
    begin = text.find("-----BEGIN CERTIFICATE-----")
    end = text.find(_END, begin)
    if begin < 0 or end < 0:
        raise ValueError(f"{path} holds no certificate (PEM)")
    return pin_of(ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)]))


def _is_trusted_here(cert: Path, key: Path) -> bool:
    """Whether this machine's authorities vouch for the certificate, by a handshake in memory."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    # By whichever of its names agents reach it.
    client.check_hostname = False
    try:
        server.load_cert_chain(cert, key, password=_no_password)
    # What is wrong with the two is said when the server starts to listen with them.
    except (OSError, ssl.SSLError, ValueError):
        return False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    return _handshake_succeeds(sides)


def _handshake_succeeds(sides: Sequence[ssl.SSLObject]) -> bool:
    for _ in range(_MAX_FLIGHTS):
        waiting = False
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                waiting = True
            except ssl.SSLError:
                return False
        if not waiting:
            return True
    return False


def _no_password() -> str:
    # Without it OpenSSL would ask on the terminal, and the server does so once more.
    raise ValueError("the key is encrypted")
