"""Addresses as people write them, made into the one form that the rest of the program uses. Pure."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

# Path of the agents' socket on a server, as in ``obt_agent.protocol.limits`` (a test compares them).
CONNECT_PATH: Final = "/api/v1/agents/connect"

OLLAMA_PORT: Final = 11434
# How the link speaks to a proxy. Not ``https``: TLS to the server runs through the tunnel, TLS to the proxy
# itself is not done.
PROXY_SCHEMES: Final = ("http", "socks5", "socks5h")

_PORTS: Final = {"http": 80, "https": 443}
_LAST_PORT: Final = 65535
_VERSION_4: Final = 4
_LONGEST_PORT: Final = 5
_SOCKET_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
# What Ollama listens on; one cannot dial it.
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - replaced, not bound


class WrongUrl(Exception):
    """The address cannot be used; the text says why and what to write. It never repeats user information."""


def server_socket(text: str) -> str:
    """The ``ws(s)://`` address of the server's socket for agents.

    ``http(s)://host[:port][/prefix]`` gets the path of the socket; a full ``ws(s)://`` address keeps its own.

    Raises:
        WrongUrl: another scheme, no host, a bad port, user information, a query or a fragment.
    """
    text = _unquoted(text)
    if "://" not in text:
        raise WrongUrl(
            f"has no scheme; write https://{text.rpartition('@')[2]} (or http:// for this machine)"
        )
    parts = _split(text)
    if parts.scheme not in _SOCKET_SCHEMES:
        raise WrongUrl(f"has the scheme {parts.scheme}; write https://, or a full wss:// address")
    if not is_dialable(parts.hostname or ""):
        raise WrongUrl(
            f"has the host {parts.hostname}, which nobody can dial; write the name or address of the "
            "server's machine (127.0.0.1 where it is this one)"
        )
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

    Spaces and quotes around it are left out, an IPv6 address needs no brackets, and a port that is none
    counts as not given, as in Ollama's ``envconfig.Host`` (its table of forms is a test here). Without a
    scheme the port is 11434, with one 80 or 443; an address to listen on everywhere becomes this machine.

    Raises:
        WrongUrl: another scheme, the port 0, user information, a query or a fragment.
    """
    bare = _unquoted(text)
    scheme, mark, rest = bare.partition("://") if "://" in bare else ("http", "", bare)
    scheme = scheme.lower()
    if scheme not in _PORTS:
        raise WrongUrl(f"has the scheme {scheme}; write http://host:port")
    _refuse_extras(rest)
    authority, _, path = rest.partition("/")
    host, port = _host_and_port(authority, _PORTS[scheme] if mark else OLLAMA_PORT)
    parts = _split(f"{scheme}://{host}:{port}/{path}", host_needed=False)
    host = _ANY_ADDRESS.get(parts.hostname or "", parts.hostname or "")
    return urlunsplit((scheme, f"{_bracketed(host)}:{port}", parts.path.rstrip("/"), "", ""))


def ollama_port(host_variable: str) -> int:
    """The port on which a server listens whose ``OLLAMA_HOST`` is this."""
    try:
        return urlsplit(ollama_base(host_variable)).port or OLLAMA_PORT
    except WrongUrl:
        return OLLAMA_PORT


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    # Before colons are looked for, of which an address of version 6 has several.
    with contextlib.suppress(ValueError):
        ipaddress.IPv6Address(authority)
        return f"[{authority}]", default
    host, colon, digits = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority, default
    is_port = (
        digits.isascii() and digits.isdigit() and len(digits) <= _LONGEST_PORT and int(digits) <= _LAST_PORT
    )
    return host, int(digits) if is_port else default


def proxy_address(text: str) -> str:
    """``env``, ``none`` or a proxy's URL (``PROXY_SCHEMES``; user information allowed).

    Raises:
        WrongUrl: anything else.
    """
    text = _unquoted(text)
    if text in {"env", "none"}:
        return text
    if "://" not in text:
        raise WrongUrl(
            "is none of: env, none, a proxy's URL such as http://proxy:3128 or socks5h://proxy:1080"
        )
    parts = _split(text, userinfo=True)
    if parts.scheme not in PROXY_SCHEMES:
        raise WrongUrl(f"has the scheme {parts.scheme}; a proxy is spoken to by {', '.join(PROXY_SCHEMES)}")
    return text


def is_loopback(url: str) -> bool:
    """Return whether the address stays on this machine; by its text alone, no name is looked up."""
    host = urlsplit(url).hostname or ""
    if host.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_dialable(host: str) -> bool:
    """Return whether anybody could dial that name or address: 0.0.0.0 and :: are for listening alone."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return True
    # 240.0.0.0/4 and the broadcast address; of version 6 the reserved ranges hold translated addresses.
    reserved = address.version == _VERSION_4 and address.is_reserved
    return not (address.is_unspecified or address.is_multicast or reserved)


def without_userinfo(text: str) -> str:
    """The text of a URL with user name and password replaced by ``***``."""
    # A "://" after the "@" is part of a path.
    scheme, mark, rest = text.partition("://") if "://" in text.partition("@")[0] else ("", "", text)
    before, at, host = rest.rpartition("@")
    return f"{scheme}{mark}***@{host}" if at and before else text


def _unquoted(text: str) -> str:
    """The text without spaces and quotes around it, as ``- OLLAMA_URL="..."`` in a compose file has them."""
    text = text.strip().strip("\"'").strip()
    if any(c in "\"'" or c.isspace() or not c.isprintable() for c in text):
        raise WrongUrl("holds a space, a quote or a control character")
    return text


def _refuse_extras(authority_and_path: str) -> None:
    if "@" in authority_and_path.partition("/")[0]:
        raise WrongUrl("holds a user name or password; leave them out (a token stands in server.token_file)")
    if "?" in authority_and_path or "#" in authority_and_path:
        raise WrongUrl("holds a query or a fragment; leave out everything from ? or # on")


def _split(text: str, *, userinfo: bool = False, host_needed: bool = True) -> SplitResult:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise WrongUrl("is no address: its port or its brackets are wrong") from error
    # urlsplit takes the port 0 for one.
    if port == 0 or (host_needed and not parts.hostname):
        raise WrongUrl("has no host" if port != 0 else "has the port 0")
    _refuse_extras(text.partition("://")[2].rpartition("@")[2] if userinfo else text.partition("://")[2])
    return parts


def _netloc(parts: SplitResult) -> str:
    host = _bracketed(parts.hostname or "")
    return host if parts.port is None else f"{host}:{parts.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
