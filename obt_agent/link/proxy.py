"""Proxies: which one, and a socket through it. User names and passwords in their URLs are never shown."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from obt_agent.config.urls import is_loopback
from obt_agent.link.address import Address
from obt_agent.link.disconnect import NextDial, dial_failed
from obt_agent.printable import printable

_TYPES: Final = {
    "http": ("HTTP", True, 80),
    "socks5": ("SOCKS5", False, 1080),
    "socks5h": ("SOCKS5", True, 1080),
}
"""Scheme: type, whether the proxy resolves the server's name (as curl reads the schemes), default port."""


@dataclass(frozen=True, slots=True, repr=False)
class ProxyAddress:
    """A proxy, with credentials if it wants them."""

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def choose(setting: str, address: Address) -> ProxyAddress | None:
    """Return the proxy for this server: none, the one of the configuration, or that of the environment.

    The environment's ``https_proxy`` (``http_proxy`` for ``ws://``), ``all_proxy`` and ``no_proxy`` count, in
    either case; a server on this machine is never dialled through the environment's proxy.

    Raises:
        DialFailed: the proxy's URL cannot be used.
    """
    if setting == "none":
        return None
    if setting != "env":
        return parse_proxy(setting, "server.proxy")
    # A proxy would look for the server on its own machine.
    if is_loopback(address.socket_url) or bypasses(_variable("no_proxy"), address.host, address.port):
        return None
    for name in ("https_proxy" if address.secure else "http_proxy", "all_proxy"):
        if url := _variable(name):
            return parse_proxy(url, name)
    return None


def _variable(name: str) -> str:
    """The lower-case variable wins, also when it is empty: so curl and Python read them."""
    return os.environ.get(name, os.environ.get(name.upper(), "")).strip()


def bypasses(no_proxy: str, host: str, port: int) -> bool:
    """Return whether ``NO_PROXY`` names the server, in any form that curl, Go or Python takes.

    Entries are divided by commas or spaces: ``*``; a domain, with or without a leading dot (it and all below
    it); ``*.domain`` (all below it); an address, with or without brackets; a network (``10.0.0.0/8``). A port
    may follow a name, an address in brackets and an IPv4 address. No name is looked up.
    """
    name = host.rstrip(".").lower()
    return any(_names(entry, name, port) for entry in no_proxy.lower().replace(",", " ").split())


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _in_network(entry, host)
    entry, entry_port = _split_port(entry)
    if entry_port not in ("", str(port)):
        return False
    # As addresses, and not as texts: ::1 and 0:0:0:0:0:0:0:1 are one.
    address, named = _ip(host), _ip(entry)
    if address is not None or named is not None:
        return address == named
    domain = entry.removeprefix("*").lstrip(".").rstrip(".")
    if not domain:
        return False
    return host.endswith(f".{domain}") or (host == domain and not entry.startswith("*"))


def _split_port(entry: str) -> tuple[str, str]:
    """An entry without its brackets, and its port; the colons of a bare IPv6 address are its own."""
    if entry.startswith("["):
        inside, _, rest = entry[1:].partition("]")
        return inside, rest.removeprefix(":")
    name, colon, port = entry.partition(":")
    return (name, port) if colon and ":" not in port else (entry, "")


def _in_network(entry: str, host: str) -> bool:
    address = _ip(host)
    if address is None:
        return False
    try:
        # Not strict: 10.1.2.3/8 means what 10.0.0.0/8 does, as everywhere else.
        network = ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False
    return address in network


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def parse_proxy(url: str, source: str) -> ProxyAddress:
    """Read a proxy's URL; one without a scheme is ``http``. ``source`` is the setting or variable it is from.

    Raises:
        DialFailed: it is not a URL of a proxy that can be used.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise dial_failed("proxy_url", f"{source} is no URL.", NextDial.MAX_BACKOFF) from error
    if parts.scheme not in _TYPES or not parts.hostname:
        raise dial_failed(
            "proxy_url",
            f"{source} has the scheme {parts.scheme!r}: write http://, socks5:// or socks5h://, or set "
            "server.proxy.",
            NextDial.MAX_BACKOFF,
        )
    return ProxyAddress(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or _TYPES[parts.scheme][2],
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


async def connect_through(proxy: ProxyAddress, host: str, port: int, deadline_s: float) -> socket.socket:
    """A socket to ``host:port`` through the proxy.

    Raises:
        DialFailed: the proxy does not answer, refuses, or wants other credentials.
    """
    import python_socks  # noqa: PLC0415 - 23 modules, 0.4 MB: only behind a proxy
    from python_socks.async_.asyncio import Proxy  # noqa: PLC0415 - the same

    type_, remote_names, _ = _TYPES[proxy.scheme]
    client = Proxy(
        proxy_type=python_socks.ProxyType[type_],
        host=proxy.host,
        port=proxy.port,
        username=proxy.username,
        password=proxy.password,
        rdns=remote_names,
    )
    try:
        return await client.connect(host, port, timeout=deadline_s)
    except python_socks.ProxyTimeoutError as error:
        raise dial_failed(
            "proxy_timeout", f"The proxy {proxy!r} did not connect to {host} in time."
        ) from error
    except python_socks.ProxyConnectionError as error:
        raise dial_failed("proxy_unreachable", f"The proxy {proxy!r} cannot be reached.") from error
    except (python_socks.ProxyError, OSError) as error:
        raise dial_failed("proxy_refused", f"The proxy {proxy!r} refused: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return printable(str(error), 120).rstrip(".") or type(error).__name__
