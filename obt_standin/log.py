"""What was asked and what was written when: the truth that measurements are held against."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

Ended = Literal["open", "complete", "client_closed", "broken_off"]


@dataclass
class LoggedExchange:
    """One request and its answer; times are ``time.monotonic_ns``.

    ``writes`` holds each write of the answer's body: the moment just before it went to the socket, and the
    bytes without HTTP's own framing. ``token_ns`` holds, for a generation, when each token was due,
    the unseen last one of a proper stop included. ``headers`` are the request's, with lower-case names.
    """

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    # When the request's headers were read.
    began_ns: int = field(default_factory=time.monotonic_ns)
    # When the answer's headers went out, and when all was written; 0 until then.
    headers_ns: int = 0
    ended_ns: int = 0
    status: int = 0
    ended: Ended = "open"
    writes: list[tuple[int, bytes]] = field(default_factory=list)
    token_ns: list[int] = field(default_factory=list)
    # What the stand-in counted itself, to hold a client's figures against.
    prompt_tokens: int = 0
    cached_tokens: int = 0
    eval_tokens: int = 0

    @property
    def sent(self) -> bytes:
        """The answer's body as far as it was written."""
        return b"".join(data for _, data in self.writes)
