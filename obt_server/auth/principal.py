"""The hook for authentication: whoever mounts the router says who is asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection


@dataclass(frozen=True)
class InferenceGrant:
    """What somebody may use through the gateway.

    Args:
        id: names the token in the log, and counts its open requests.
        machines: ids of agents, ``@label`` for those with a label of the operators', ``*`` for all.
        models: shell patterns on names of models; ``*`` for all.
    """

    id: str
    machines: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Principal:
    """Somebody who may drive the machines.

    With ``inference`` one who may use that through the gateway alone; with ``metrics_only`` one who may read
    ``/metrics`` alone. ``via`` is how they showed who they are, for the audit line: ``token 3``.
    """

    name: str
    inference: InferenceGrant | None = None
    metrics_only: bool = False
    via: str = ""


Authenticate = Callable[[HTTPConnection], Awaitable[Principal | None]]
"""Takes any HTTP or WebSocket request; None when it comes from nobody who may."""
