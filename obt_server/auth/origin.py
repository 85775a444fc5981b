"""Which browsers may use the server: Host against DNS rebinding, Origin against other pages. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from starlette.datastructures import Headers

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# RFC 3986's authority without user information; an origin (RFC 6454, 6.2) is a scheme before one.
_AUTHORITY: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]\\]+)(?::([0-9]{0,5}))?")
_ORIGIN: Final = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_KEEP_HOST: Final = (
    "let it pass the Host header on (nginx: proxy_set_header Host $http_host; Apache: ProxyPreserveHost On)"
)
_SHOWN_CHARS: Final = 100


class Authority(NamedTuple):
    """A host as it is compared, and the port that was written."""

    host: str
    port: int | None


class PageOrigin(NamedTuple):
    """Where a page comes from; the scheme's own port where none was written."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True)
class RequestRefusal:
    """An HTTP status and the message of the answer."""

    status: int
    message: str


@dataclass(frozen=True)
class OriginPolicy:
    """Checks ``Host`` and ``Origin``.

    A browser that was lured here by a name that points to this address sends that name as ``Host``; a page of
    another site sends its own ``Origin``. Programs send no ``Origin``.

    Args:
        hosts: names and addresses (no port) that this server goes by; None leaves ``Host`` to somebody else.
        https_only: whether browsers reach this server by https alone.
        origins: other sites whose pages may ask; their browsers still need to be told so by CORS headers.
    """

    hosts: frozenset[str] | None
    https_only: bool = False
    origins: frozenset[PageOrigin] = frozenset()

    @classmethod
    def of(
        cls, hosts: Iterable[str] | None, *, https_only: bool, origins: Iterable[str] = ()
    ) -> OriginPolicy:
        """Return a policy for these names and origins, the latter like ``https://obt.example.org``.

        Raises:
            ValueError: one of the origins is none.
        """
        names = None if hosts is None else frozenset(normalized_host(host) for host in hosts)
        return cls(names, https_only, frozenset(map(_allowed_origin, origins)))

    def check(self, headers: Headers) -> RequestRefusal | None:
        """Return None when the request may go on."""
        # Checked although a proxy may have done so: a rebinding attack comes through no proxy.
        text = headers.get("host", "")
        host = parse_authority(text)
        if self.hosts is not None and (host is None or host.host not in self.hosts):
            return RequestRefusal(421, self._wrong_host(text, headers))
        origin = headers.get("origin")
        # Browsers send it with every request that changes something; programs send none.
        if origin is None:
            return None
        message = self._wrong_origin(origin, host, text)
        return None if message is None else RequestRefusal(403, message)

    def _wrong_origin(self, origin: str, host: Authority | None, host_text: str) -> str | None:
        """Return why the origin is not the server's own, or None when it is.

        Origins are compared as RFC 6454 says: host and port, the scheme's own port where none is written. A
        proxy that writes ``Host: name:443`` means the same as a browser that leaves the port out.
        """
        shown, host_shown = origin[:_SHOWN_CHARS], host_text[:_SHOWN_CHARS]
        page = parse_origin(origin)
        if page is None:
            return (
                f"Requests from pages of another site are refused: Origin is {shown!r}, which is no address."
            )
        if page in self.origins:
            return None
        if self.https_only and page.scheme != "https":
            return (
                f"The page was opened as {shown}, and this server is reached by https alone (--tls-cert or "
                "--behind-proxy was given). Open it with https://."
            )
        default = _DEFAULT_PORTS[page.scheme]
        if host is not None and (page.host, page.port) == (host.host, host.port or default):
            return None
        return (
            f"Requests from pages of another site are refused: the page is {shown}, the request came for "
            f"{host_shown!r}. If that page is this server's own, a reverse proxy before it changed Host: "
            f"{_KEEP_HOST}."
        )

    def _wrong_host(self, text: str, headers: Headers) -> str:
        shown = text[:_SHOWN_CHARS]
        message = f"This server does not go by the name {shown!r}."
        if any(name in headers for name in ("x-forwarded-for", "x-forwarded-host", "forwarded", "via")):
            # nginx's default is the upstream's own name, which no browser ever asked for
            return (
                f"{message} The request came through a reverse proxy: {_KEEP_HOST}, and start the server "
                "with --behind-proxy and --allowed-host NAME, the name in the browser's address bar."
            )
        return f"{message} If it should: --allowed-host NAME. Behind a reverse proxy, {_KEEP_HOST}."


def parse_authority(text: str) -> Authority | None:
    """Return host and port of ``name:port``; None where it is no such thing."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    return Authority(normalized_host(found[1]), int(found[2]) if found[2] else None)


def parse_origin(text: str) -> PageOrigin | None:
    """Return where a page comes from, as its browser writes it; None where it is no such thing."""
    found = _ORIGIN.fullmatch(text)
    page = None if found is None else parse_authority(found[2])
    if found is None or page is None:
        return None
    scheme = found[1].lower()
    return PageOrigin(scheme, page.host, page.port or _DEFAULT_PORTS[scheme])


def _allowed_origin(text: str) -> PageOrigin:
    page = parse_origin(text)
    # A wildcard or a path that is silently never matched would be looked for in the browser.
    if page is None:
        raise ValueError(f"{text!r} is no origin: write scheme, host and port, like http://localhost:5173")
    return page


def normalized_host(host: str) -> str:
    """Return the one form of a host's name in which two are compared.

    Names are compared in lower case, without the dot of the root, in the ASCII form (``xn--``) that browsers
    send; IPv6 addresses in their shortest form.
    """
    host = host.strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host
