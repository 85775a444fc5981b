"""Proxies: which one, and a socket through it. User names and passwords in their URLs are never shown."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib import request as urllib_request
from urllib.parse import unquote, urlsplit

from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy as ProxyClient

from obt_agent.config.urls import is_loopback
from obt_agent.link.address import Address
from obt_agent.link.disconnect import NextDial, dial_failed

_TYPES: Final = {
    "http": (ProxyType.HTTP, True, 80),
    "socks5": (ProxyType.SOCKS5, False, 1080),
    "socks5h": (ProxyType.SOCKS5, True, 1080),
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
    """The proxy for this server: none, the one of the configuration, or that of the environment.

    The environment's ``https_proxy`` (``http_proxy`` for ``ws://``), ``all_proxy`` and ``no_proxy`` count, in
    either case; a server on this machine is never dialled through the environment's proxy.

    Raises:
        DialFailed: the proxy's URL cannot be used.
    """
    if setting == "none":
        return None
    if setting != "env":
        return parse_proxy(setting)
    proxies = urllib_request.getproxies_environment()
    if is_loopback(address.socket_url) or _bypassed(address, proxies):
        return None
    url = proxies.get("https" if address.secure else "http") or proxies.get("all")
    return parse_proxy(url) if url else None


def _bypassed(address: Address, proxies: dict[str, str]) -> bool:
    """Whether ``no_proxy`` names the server: the standard library knows, its annotations do not."""
    bypass: Callable[[str, dict[str, str]], bool] = getattr(urllib_request, "proxy_bypass_environment")  # noqa: B009 - mypy knows no such attribute
    return bool(bypass(f"{address.host}:{address.port}", proxies))


def parse_proxy(url: str) -> ProxyAddress:
    """Read a proxy's URL; one without a scheme is ``http``.

    Raises:
        DialFailed: it is not a URL of a proxy that can be used.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise dial_failed("proxy_url", "The proxy's address is no URL.", NextDial.MAX_BACKOFF) from error
    if parts.scheme not in _TYPES or not parts.hostname:
        raise dial_failed(
            "proxy_url",
            f"A proxy of scheme {parts.scheme!r} cannot be used: write http://, socks5:// or socks5h://.",
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
    type_, remote_names, _ = _TYPES[proxy.scheme]
    client = ProxyClient(
        proxy_type=type_,
        host=proxy.host,
        port=proxy.port,
        username=proxy.username,
        password=proxy.password,
        rdns=remote_names,
    )
    try:
        return await client.connect(host, port, timeout=deadline_s)
    except ProxyTimeoutError as error:
        raise dial_failed(
            "proxy_timeout", f"The proxy {proxy!r} did not connect to {host} in time."
        ) from error
    except ProxyConnectionError as error:
        raise dial_failed("proxy_unreachable", f"The proxy {proxy!r} cannot be reached.") from error
    except (ProxyError, OSError) as error:
        raise dial_failed("proxy_refused", f"The proxy {proxy!r} refused: {_short(error)}.") from error


def _short(error: Exception) -> str:
    """The proxy's words, fit for a log."""
    return "".join(c for c in str(error) if c.isprintable())[:120].rstrip(".") or type(error).__name__
