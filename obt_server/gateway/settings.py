"""The gateway's numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GatewaySettings:
    """What the gateway takes; beyond it a request is refused, and nothing waits.

    Args:
        max_body_bytes: largest body of a request; an agent takes 16 MiB of images, longer as base64.
        max_bodies_bytes: most bytes of all bodies whose requests are not answered yet.
        requests_of_token: most requests of one token that are open at once.
        max_joined_bytes: largest answer that is put together here, where no stream was asked for.
    """

    max_body_bytes: int = 24 << 20
    max_bodies_bytes: int = 128 << 20
    requests_of_token: int = 32
    max_joined_bytes: int = 32 << 20
