"""Addresses as people write them, made into the one form that the rest of the program uses. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

CONNECT_PATH: Final = "/api/v1/agents/connect"
"""Path of the agents' socket on a server, as in ``obt_agent.protocol.limits`` (a test compares them)."""

OLLAMA_PORT: Final = 11434
_PORTS: Final = {"http": 80, "https": 443}
_SOCKET_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - replaced, not bound


class WrongUrl(Exception):
    """The address cannot be used; the text says why and what to write. It never repeats user information."""


def server_socket(text: str) -> str:
    """The ``ws(s)://`` address of the server's socket for agents.

    ``http(s)://host[:port][/prefix]`` gets the path of the socket; a full ``ws(s)://`` address keeps its own.

    Raises:
        WrongUrl: another scheme, no host, a bad port, user information, a query or a fragment.
    """
    _check_characters(text)
    if "://" not in text:
        raise WrongUrl(
            f"has no scheme; write https://{text.rpartition('@')[2]} (or http:// for this machine)"
        )
    parts = _split(text)
    if parts.scheme not in _SOCKET_SCHEMES:
        raise WrongUrl(f"has the scheme {parts.scheme}; write https://, or a full wss:// address")
    path = parts.path.rstrip("/")
    if parts.scheme in {"http", "https"} and not path.endswith(CONNECT_PATH):
        path += CONNECT_PATH
    return urlunsplit((_SOCKET_SCHEMES[parts.scheme], _netloc(parts), path or CONNECT_PATH, "", ""))


def server_base(socket_url: str) -> str:
    """The ``http(s)://`` address that belongs to a socket's, without the socket's path."""
    parts = urlsplit(socket_url)
    scheme = "https" if parts.scheme == "wss" else "http"
    return urlunsplit((scheme, parts.netloc, parts.path.removesuffix(CONNECT_PATH).rstrip("/"), "", ""))


def ollama_base(text: str) -> str:
    """Ollama's address as ``http(s)://host:port``, from any form that Ollama's own ``OLLAMA_HOST`` takes.

    Without a scheme the port is 11434 (80 and 443 with ``http://`` and ``https://``, as in Ollama's
    ``envconfig.Host``); an address to listen on everywhere becomes this machine.

    Raises:
        WrongUrl: another scheme, a bad port, user information, a query or a fragment.
    """
    _check_characters(text)
    full = text if "://" in text else f"http://{text}"
    parts = _split(full, host_needed=False)
    if parts.scheme not in _PORTS:
        raise WrongUrl(f"has the scheme {parts.scheme}; write http://host:port")
    host = _ANY_ADDRESS.get(parts.hostname or "", parts.hostname or "")
    default = _PORTS[parts.scheme] if "://" in text else OLLAMA_PORT
    port = default if parts.port is None else parts.port
    return urlunsplit((parts.scheme, f"{_bracketed(host)}:{port}", parts.path.rstrip("/"), "", ""))


def proxy_address(text: str) -> str:
    """``env``, ``none`` or a proxy's URL (http, https, socks5, socks5h; user information allowed).

    Raises:
        WrongUrl: anything else.
    """
    if text in {"env", "none"}:
        return text
    _check_characters(text)
    if "://" not in text:
        raise WrongUrl(
            "is none of: env, none, a proxy's URL such as http://proxy:3128 or socks5h://proxy:1080"
        )
    parts = _split(text, userinfo=True)
    if parts.scheme not in {"http", "https", "socks5", "socks5h"}:
        raise WrongUrl(f"has the scheme {parts.scheme}; a proxy has http, https, socks5 or socks5h")
    return text


def is_loopback(url: str) -> bool:
    """Does the address stay on this machine? Decided by the text: no name is looked up."""
    host = urlsplit(url).hostname or ""
    if host.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_userinfo(text: str) -> str:
    """The text of a URL with user name and password replaced by ``***``."""
    scheme, mark, rest = text.partition("://") if "://" in text.partition("@")[0] else ("", "", text)
    before, at, host = rest.rpartition("@")
    return f"{scheme}{mark}***@{host}" if at and before else text


def _check_characters(text: str) -> None:
    if any(c.isspace() or not c.isprintable() for c in text):
        raise WrongUrl("holds a space or a control character")


def _split(text: str, *, userinfo: bool = False, host_needed: bool = True) -> SplitResult:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise WrongUrl("is no address: its port or its brackets are wrong") from error
    if port == 0 or (host_needed and not parts.hostname):
        raise WrongUrl("has no host" if port != 0 else "has the port 0")
    if "@" in parts.netloc and not userinfo:
        raise WrongUrl("holds a user name or password; leave them out (a token stands in server.token_file)")
    if parts.query or parts.fragment:
        raise WrongUrl("holds a query or a fragment; leave out everything from ? or # on")
    return parts


def _netloc(parts: SplitResult) -> str:
    host = _bracketed(parts.hostname or "")
    return host if parts.port is None else f"{host}:{parts.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
