"""What a replica needs of the others: who they are, and the ways to them."""

from __future__ import annotations

from typing import Protocol

from obt_server.bus import Bus, Exchanges
from obt_server.replicas.membership import Membership
from obt_server.replicas.subjects import Subjects


class Replicas(Protocol):
    """The parts of a replica that everything above its hub shares, while it serves."""

    @property
    def membership(self) -> Membership:
        """Who is there, and who leads."""

    @property
    def bus(self) -> Bus:
        """Carries messages to all."""

    @property
    def exchanges(self) -> Exchanges:
        """Requests to one."""

    @property
    def subjects(self) -> Subjects:
        """What messages are addressed to."""
