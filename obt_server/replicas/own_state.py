"""What a replica says of itself with each beat."""

from __future__ import annotations

import socket

from obt_server.hub.errors import Draining
from obt_server.replica_storage import ReplicaState
from obt_server.replicas.parts import Replicas


def own_state(replicas: Replicas, version: str) -> ReplicaState:
    """Return it as it is now; ``version`` is the release."""
    try:
        exchanges = replicas.exchanges.open_calls
    # It begins with a beat, and ends with one.
    except Draining:
        exchanges = 0
    return ReplicaState(
        host=socket.gethostname(),
        version=version,
        bus_connected=replicas.bus.connected,
        exchanges=exchanges,
    )
