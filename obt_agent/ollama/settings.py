"""Where Ollama is, and how long each kind of silence may last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from obt_agent.config.schema import OllamaConfig
from obt_agent.errors import ConfigError

DEFAULT_URL: Final = "http://127.0.0.1:11434"
DEFAULT_PORT: Final = 11434
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read from settings, never bound


@dataclass(frozen=True)
class OllamaSettings:
    """How to reach Ollama; times are seconds.

    Args:
        url: address, in any form that ``normal_url`` reads.
        connect_timeout_s: until the connection stands.
        first_byte_timeout_s: from the request to the response's headers, which come only with the first
            token: queueing, loading and prefill are in it.
        between_bytes_timeout_s: between two reads of one stream; a pull or create may be silent for
            ``first_byte_timeout_s``.
        request_timeout_s: the whole of a request that generates nothing (lists, show, copy, delete).
        max_line_bytes: length that no line of a stream may exceed.
        max_body_bytes: length that no other body may exceed.
        retries: attempts of an idempotent GET, the first one counted.
    """

    url: str = DEFAULT_URL
    connect_timeout_s: float = 5
    first_byte_timeout_s: float = 900
    between_bytes_timeout_s: float = 120
    request_timeout_s: float = 30
    max_line_bytes: int = 1 << 20
    max_body_bytes: int = 64 << 20
    retries: int = 3


def configured(section: OllamaConfig) -> OllamaSettings:
    """What the ``ollama`` section of the configuration says."""
    return OllamaSettings(
        url=section.url,
        connect_timeout_s=section.connect_timeout_s,
        first_byte_timeout_s=section.first_byte_timeout_s,
        between_bytes_timeout_s=section.between_bytes_timeout_s,
        request_timeout_s=section.request_timeout_s,
    )


def normal_url(text: str) -> str:
    """Return ``scheme://host:port[/path]`` for what ``OLLAMA_URL`` or ``OLLAMA_HOST`` may hold.

    Takes ``host``, ``host:port``, ``:port`` and URLs; ``0.0.0.0`` and ``[::]`` become loopback, since a
    server listens there but a client cannot dial it. Without a port it is
    11434, in a URL 443 with ``https`` and 80 with ``http``.

    Raises:
        ConfigError: it is no address of an HTTP server.
    """
    given = text.strip().rstrip("/")
    bare = "://" not in given
    try:
        parts = urlsplit(f"http://{given}" if bare else given)
        port = parts.port
    except ValueError as error:
        raise _wrong(text, str(error)) from error
    if parts.scheme not in {"http", "https"}:
        raise _wrong(text, "the scheme must be http or https")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _wrong(f"{parts.scheme}://…", "it may hold no user, password, query or fragment")
    host = parts.hostname or "127.0.0.1"
    if any(character.isspace() for character in host):
        raise _wrong(text, "a host holds no space")
    if port is None:
        port = _port(parts.scheme, bare=bare)
    return f"{parts.scheme}://{_bracketed(_ANY_ADDRESS.get(host, host))}:{port}{parts.path}"


def _port(scheme: str, *, bare: bool) -> int:
    if bare:
        return DEFAULT_PORT
    return 443 if scheme == "https" else 80


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _wrong(text: str, why: str) -> ConfigError:
    return ConfigError(f"ollama.url is {text!r}, but {why}; write it like {DEFAULT_URL}.", key="ollama.url")
