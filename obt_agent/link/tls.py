"""TLS to the server: what is checked, and what to say when the check fails.

``server.ca_file`` comes first: where it is set, authority and name decide, and pins do not count. Else the
pins that came with the join token: the server must show one of these keys, and nothing else of its
certificate matters. Else authority and name, by the system's own authorities.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from obt_agent.config.schema import ServerConfig
from obt_agent.errors import ConfigError
from obt_agent.protocol.server_key import pin_of


def pins_in_force(server: ServerConfig, pins: Sequence[str]) -> tuple[str, ...]:
    """The pins that count: none where the owner's ``server.ca_file`` decides, which they must not widen."""
    return () if server.ca_file is not None else tuple(pins)


def client_context(server: ServerConfig, pins: Sequence[str] = ()) -> ssl.SSLContext:
    """TLS 1.2 or later, certificate and host name checked. Reads files: call it off the loop.

    With pins in force the context checks neither: ``shows_pinned_key`` does, before anything is sent.

    Raises:
        ConfigError: a file cannot be read, or is not PEM.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if pins_in_force(server, pins):
        # The handshake still proves that the other side holds the key of the certificate that it shows.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if server.ca_file is not None:
        try:
            # Beside the system's authorities: a server may move from its own to a public one.
            context.load_verify_locations(cafile=server.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"server.ca_file {server.ca_file}: {_reason(error)}.") from error
    if server.client_cert_file is not None:
        try:
            context.load_cert_chain(server.client_cert_file, server.client_key_file, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"server.client_cert_file {server.client_cert_file} and its key cannot be used: "
                f"{_reason(error)}."
            ) from error
    return context


def shows_pinned_key(secured: ssl.SSLObject, pins: Sequence[str]) -> bool:
    """Whether the other side of a finished handshake showed one of these keys."""
    certificate = secured.getpeercert(binary_form=True)
    try:
        return certificate is not None and pin_of(certificate) in pins
    except ValueError:
        return False


WRONG_KEY: Final = (
    "{} does not show the key that the join token names: somebody is in between, or its certificate was "
    "replaced. Nothing secret was sent. If it was replaced, enrol with a new join token."
)


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted; store it without a passphrase, readable by the agent alone")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it is no usable PEM file").replace("_", " ").lower()
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_WRONG_HOST: Final = (62, 64)
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED, _CERT_NOT_YET_VALID, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH."""

_CUT: Final = "{} ended the connection during the TLS handshake; does it speak TLS 1.2 or later on this port?"


def explain(error: Exception, host: str, now: datetime | None = None) -> tuple[str, str]:
    """A stable word, and what to tell a person, about a failed handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error, host, now or datetime.now(UTC))
    if isinstance(error, ssl.SSLError):
        return _explain_handshake(error, host)
    if isinstance(error, (ConnectionAbortedError, TimeoutError)):
        return "tls_timeout", f"{host} did not finish the TLS handshake in time."
    return "tls_cut", _CUT.format(host)


def _explain_certificate(error: ssl.SSLCertVerificationError, host: str, now: datetime) -> tuple[str, str]:
    # A board without a battery for its clock starts in the past, where no certificate is valid yet.
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC; if that is wrong, set it"
    code = error.verify_code
    if code == _EXPIRED:
        return "tls_expired", f"The certificate of {host} has expired: renew it on the server ({clock})."
    if code == _NOT_YET_VALID:
        return "tls_not_yet_valid", f"The certificate of {host} is not valid yet ({clock})."
    if code in _WRONG_HOST:
        return "tls_wrong_host", (
            f"The certificate is not for {host}: use the name that it was issued for in server.url."
        )
    return "tls_unknown_ca", (
        f"The certificate of {host} comes from an authority that is not trusted here "
        f"({error.verify_message}): put the authority's certificate in server.ca_file."
    )


_HANDSHAKE: Final[tuple[tuple[tuple[str, ...], str, str], ...]] = (
    (
        ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"),
        "tls_version",
        "{} does not speak TLS 1.2 or later.",
    ),
    (
        ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"),
        "tls_plain_http",
        "{} answers without TLS on this port; is it an http:// port?",
    ),
    (
        ("ALERT",),
        "tls_refused",
        "{} refused the TLS handshake ({}): it may want a client certificate (server.client_cert_file).",
    ),
    (("EOF",), "tls_cut", _CUT),
)


def _explain_handshake(error: ssl.SSLError, host: str) -> tuple[str, str]:
    reason: str = getattr(error, "reason", None) or ""
    # OpenSSL has no number for these, and words that differ from release to release: parts of them.
    for marks, kind, message in _HANDSHAKE:
        if any(mark in reason for mark in marks):
            return kind, message.format(host, reason.lower())
    return "tls_failed", f"The TLS handshake with {host} failed: {reason.lower() or 'no reason given'}."
