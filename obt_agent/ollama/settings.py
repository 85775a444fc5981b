"""Where Ollama is, and how long each kind of silence may last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from obt_agent.config.schema import OllamaConfig

DEFAULT_URL: Final = "http://127.0.0.1:11434"


@dataclass(frozen=True)
class OllamaSettings:
    """How to reach Ollama; times are seconds.

    Args:
        url: address, in any form that ``config.urls.ollama_base`` reads.
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
