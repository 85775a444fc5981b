"""Which browsers may ask: Host against DNS rebinding, Origin against other pages. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class RequestRefusal:
    """An HTTP status and what to say."""

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
    """

    hosts: frozenset[str] | None
    https_only: bool = False

    @classmethod
    def of(cls, hosts: Iterable[str], *, https_only: bool) -> OriginPolicy:
        """A policy for these names."""
        return cls(frozenset(host.lower().strip("[]") for host in hosts), https_only)

    def check(self, headers: Headers) -> RequestRefusal | None:
        """None when the request may go on."""
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return RequestRefusal(421, "This server does not go by that name: see --allowed-host.")
        origin = headers.get("origin")
        if origin is not None and not self._same(origin, host):
            return RequestRefusal(403, "Requests from pages of another site are refused.")
        return None

    def _same(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if self.https_only and parts.scheme != "https":
            return False
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _name(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is no host."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
