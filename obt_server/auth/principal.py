"""The hook for authentication: whoever mounts the router says who is asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection


@dataclass(frozen=True)
class Principal:
    """Somebody who may drive the machines."""

    name: str


Authenticate = Callable[[HTTPConnection], Awaitable[Principal | None]]
"""Takes any HTTP or WebSocket request; None when it comes from nobody who may."""
