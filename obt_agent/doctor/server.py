"""The way to the server, step by step: name, proxy, TCP, TLS, upgrade with the credential."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from obt_agent.config.schema import ServerConfig
from obt_agent.doctor.findings import Finding, failure, ok, skipped, warning
from obt_agent.errors import AgentError
from obt_agent.identity.secret import Secret
from obt_agent.link import proxy
from obt_agent.link.address import Address, parse_address
from obt_agent.link.dial import Channel, open_channel, resolve
from obt_agent.link.disconnect import DialFailed, DisconnectReason
from obt_agent.link.timings import LinkTimings
from obt_agent.link.tls import pins_in_force
from obt_agent.link.wire import USER_AGENT, Wire

# Certificates and times of results suffer from more; less comes of networks and busy machines.
CLOCK_SKEW_WARNING_S: Final = 60.0
EXPIRES_SOON_S: Final = 14 * 86_400.0
_DAY_S: Final = 86_400.0

# By the kind of a failed dial (``link.disconnect``): what its owner can do.
REMEDIES: Final = {
    "resolve_failed": "Check the host in server.url, and this machine's name servers (/etc/resolv.conf).",
    "resolve_timeout": "Check this machine's name servers (/etc/resolv.conf) and its network.",
    "connect_failed": "Check host and port in server.url, that the server runs, and firewalls in between.",
    "connect_timeout": "A firewall may drop the packets; check host and port, or set server.proxy.",
    "proxy_unreachable": "Check server.proxy, or the variables https_proxy and no_proxy.",
    "proxy_timeout": "Check server.proxy, and that the proxy may reach the server.",
    "proxy_refused": "Check what the proxy allows (CONNECT to the server), and its user and password.",
    "proxy_credentials": "Write user and password into server.proxy: http://USER:PASSWORD@HOST:PORT.",
    "tls_expired": "Renew it on the server; if this machine's clock is wrong: sudo timedatectl set-ntp true.",
    "tls_not_yet_valid": "Set this machine's clock: sudo timedatectl set-ntp true; then the server's.",
    "tls_wrong_host": "Write the certificate's name into server.url, or have it issued for this one.",
    "tls_unknown_ca": "Put the authority's certificate (PEM) where the agent may read it: server.ca_file.",
    "tls_wrong_key": "If the server's operator says that its certificate was replaced: enrol with a new "
    "token (sudo obt-agent service install --enroll-again --token-file FILE), or set server.ca_file.",
    "tls_pin_without_tls": "Write https:// into server.url: the server that gave the join token has TLS.",
    "tls_plain_http": "Check the port in server.url: something without TLS answers there.",
    "tls_version": "Update the server's TLS, or what stands before it.",
    "tls_refused": "If the server wants a client certificate: server.client_cert_file and client_key_file.",
    "tls_cut": "Check the port in server.url, and whether something in between cuts TLS connections.",
    "tls_timeout": "Check the network in between: large packets may be lost (MTU), or a firewall waits.",
    "tls_failed": "Check the port in server.url, and the server's TLS.",
    "tls_files": "Correct server.ca_file, client_cert_file or client_key_file.",
    "too_many": "Wait: the server limits how often one may dial. Other agents behind one address count too.",
    "unavailable": "Try again later: the server, or what stands before it, is not ready.",
    "refused_401": "The server does not know this credential: enrol again, with a new join token.",
    "refused_403": "If the server says so: enrol again. A proxy before it must let WebSockets pass.",
    "not_found": "server.url must be the address of the OBT server; a path before /api belongs into it.",
    "misdirected": "Have the proxy before it pass on Host, or allow the name: obt-server --allowed-host.",
    "no_subprotocol": "Update the server, or point server.url at an OBT server.",
    "redirect": "Write the final address into server.url.",
    "upgrade_timeout": "A proxy before the server may not pass WebSockets; check its configuration.",
}
_OTHERWISE: Final = "Check server.url, and whether the server is well."


@dataclass(frozen=True)
class Clock:
    """Where the time comes from; a test gives another."""

    now: float

    @classmethod
    def here(cls) -> Clock:
        """This machine's."""
        return cls(time.time())


async def check(
    server: ServerConfig,
    secret: Secret | None,
    clock: Clock | None = None,
    timings: LinkTimings = LinkTimings(),  # noqa: B008 - immutable
    pins: Sequence[str] = (),
) -> AsyncIterator[Finding]:
    """Check every step until one fails. The connection ends before the hello: no session comes of it.

    ``pins`` are those of the credential.
    """
    clock = clock or Clock.here()
    try:
        address = parse_address(server.url or "", allow_insecure=server.allow_insecure)
        through = proxy.choose(server.proxy, address)
    except AgentError as error:
        yield failure("server.address", error.message, _OTHERWISE)
        return
    except DialFailed as failed:
        yield _failed("server.proxy", failed.ending)
        return
    try:
        # Through a proxy the name is resolved there, and may be unknown here.
        if through is None:
            yield await _resolved(address, timings)
            yield ok("server.proxy", "none: dialled directly")
        else:
            yield ok("server.proxy", f"through {through!r}")
        channel = await open_channel(address, server, timings, pins)
    except DialFailed as failed:
        yield _failed(_failed_check(failed.ending), failed.ending)
        return
    yield ok("server.tcp", f"{address.authority} takes connections")
    for finding in _tls(channel, address, clock, pins_in_force(server, pins)):
        yield finding
    async for finding in _upgrade(channel, address, timings, secret, clock):
        yield finding


async def _resolved(address: Address, timings: LinkTimings) -> Finding:
    found = await resolve(address.host, address.port, timings.resolve_s)
    shown = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))
    return ok("server.dns", f"{address.host} is {shown}")


def _failed_check(ending: DisconnectReason) -> str:
    for prefix, check in (("resolve", "dns"), ("proxy", "proxy"), ("tls", "tls")):
        if ending.kind.startswith(prefix):
            return f"server.{check}"
    return "server.tcp"


def _failed(check: str, ending: DisconnectReason) -> Finding:
    return failure(check, ending.message, REMEDIES.get(ending.kind, _OTHERWISE))


def _tls(channel: Channel, address: Address, clock: Clock, pins: Sequence[str]) -> tuple[Finding, ...]:
    secured = channel.transport.get_extra_info("ssl_object")
    if not isinstance(secured, ssl.SSLObject):
        return (skipped("server.tls", f"{address.authority} is spoken to without TLS"),)
    if pins:
        # Authority, name and dates of the certificate decide nothing then, and are not read.
        return (ok("server.tls", f"{secured.version()}, with the pinned key: {' or '.join(pins)}"),)
    certificate = secured.getpeercert() or {}
    # Its expiry counts by this machine's clock, as it does in the handshake.
    expires = certificate.get("notAfter")
    left_s = ssl.cert_time_to_seconds(str(expires)) - clock.now if expires else None
    issuer = dict(entry[0] for entry in certificate.get("issuer", ()) if entry)  # type: ignore[misc] # the stub's type of the names is wider than what OpenSSL gives
    by = issuer.get("organizationName") or issuer.get("commonName") or "unknown"
    message = f"{secured.version()}, certificate by {by}"
    if left_s is not None and left_s < EXPIRES_SOON_S:
        return (
            warning(
                "server.tls",
                f"{message}, which ends in {left_s / _DAY_S:.0f} days",
                "Renew it on the server.",
            ),
        )
    return (ok("server.tls", f"{message}, good until {expires}"),)


async def _upgrade(
    channel: Channel, address: Address, timings: LinkTimings, secret: Secret | None, clock: Clock
) -> AsyncIterator[Finding]:
    """The opening handshake with the credential; a made-up one still shows whether a server answers."""
    wire = channel.wire(address, timings)
    # Without a credential a made-up one: the refusal proves that a server of OBT answers.
    shown = secret or Secret("obt-agent-check-without-a-credential")
    ending = None
    try:
        await wire.upgrade(shown, deadline_s=timings.upgrade_s, user_agent=f"{USER_AGENT} (check)")
    except DialFailed as failed:
        ending = failed.ending
    finally:
        # Before the hello: a session would push out the running agent's.
        channel.abort()
    for finding in _upgrade_findings(ending, known=secret is not None):
        yield finding
    for finding in _headers(wire, clock):
        yield finding


def _upgrade_findings(ending: DisconnectReason | None, *, known: bool) -> tuple[Finding, ...]:
    refused = ending is not None and ending.kind in {"refused_401", "refused_403"}
    if ending is None and known:
        return (
            ok("server.upgrade", "it speaks obt.v1"),
            ok("server.token", "the credential is accepted"),
        )
    # Refusing the made-up credential is what a server of OBT does.
    if ending is None or (refused and not known):
        return (ok("server.upgrade", "an OBT server answers"),)
    return (_failed("server.token" if refused else "server.upgrade", ending),)


def _headers(wire: Wire, clock: Clock) -> tuple[Finding, ...]:
    """What the answer's headers contain: the server's clock, and its name."""
    response = wire.response
    if response is None:
        return ()
    found: list[Finding] = []
    if name := response.headers.get("Server"):
        found.append(ok("server.version", f"it calls itself {name[:80]}"))
    try:
        skew_s = parsedate_to_datetime(response.headers.get("Date", "")).timestamp() - clock.now
    except ValueError:
        found.append(skipped("server.clock", "the server sends no time (Date)"))
        return tuple(found)
    if abs(skew_s) > CLOCK_SKEW_WARNING_S:
        side = "ahead of" if skew_s > 0 else "behind"
        found.append(
            warning(
                "server.clock",
                f"the server's clock is {abs(skew_s):.0f} s {side} this one",
                "Set both by NTP (timedatectl set-ntp true): certificates and times of results depend on it.",
            )
        )
    else:
        found.append(ok("server.clock", f"the clocks agree within {CLOCK_SKEW_WARNING_S:.0f} s"))
    return tuple(found)
