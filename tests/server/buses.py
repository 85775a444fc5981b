"""What a test's server talks to others by: nothing, or NATS, as ``make test-cluster`` says."""

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from obt_server.bus import Bus

ADDRESS: Final = os.environ.get("OBT_TEST_BUS", "")
"""Of NATS; empty: each server is alone on its database."""


def new_bus() -> "Bus | None":
    """Return a connection of a server's own, which it starts and closes."""
    if not ADDRESS:
        return None
    from obt_server.bus.nats import NatsBus, NatsSettings  # noqa: PLC0415 - an extra

    return NatsBus(NatsSettings((ADDRESS,)))
