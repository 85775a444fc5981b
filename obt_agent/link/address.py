"""Where the server is. Pure; the forms that people write are read by ``obt_agent.config.urls``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from obt_agent.config.urls import WrongUrl, is_loopback, server_socket, without_userinfo
from obt_agent.errors import ConfigError
from obt_agent.protocol.limits import CONNECT_PATH

ENROLL_PATH: Final = "/api/v1/agents/enroll"
_DEFAULT_PORTS: Final = {True: 443, False: 80}


@dataclass(frozen=True, slots=True)
class Address:
    """A server. ``path`` is the socket's, ``base`` what the API's other paths are appended to."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """``host:port`` as in a URL, without a port that goes without saying."""
        # RFC 3986, 3.2.2: in a URL the colons of IPv6 stand in brackets.
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.secure] else f"{host}:{self.port}"

    @property
    def socket_url(self) -> str:
        """The WebSocket's URL."""
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.path}"

    @property
    def enroll_path(self) -> str:
        """Where a join token is exchanged."""
        return self.api_path(ENROLL_PATH)

    def api_path(self, path: str) -> str:
        """The request's target for a path of the API, beside the socket."""
        return self.path.removesuffix(CONNECT_PATH).rstrip("/") + path


def parse_address(url: str, *, allow_insecure: bool = False) -> Address:
    """Read ``http(s)://host[:port][/base]`` or ``ws(s)://host[:port][/path]``.

    Raises:
        ConfigError: it is no such URL, or would send a credential in clear text to another machine without
            ``allow_insecure``.
    """
    try:
        socket_url = server_socket(url)
    except WrongUrl as error:
        raise ConfigError(f"server.url {error}") from error
    parts = urlsplit(socket_url)
    secure = parts.scheme == "wss"
    if not secure and not allow_insecure and not is_loopback(socket_url):
        raise ConfigError(
            f"server.url {without_userinfo(url)} would send the credential in clear text. Use https:// (or "
            "wss://), or set server.allow_insecure: true if the network between is yours."
        )
    return Address(secure, parts.hostname or "", parts.port or _DEFAULT_PORTS[secure], parts.path)
