"""Errors of a server that is one of several."""

from __future__ import annotations

from typing import Final

from obt_agent.errors import AgentError
from obt_server.hub.errors import AgentOffline, AmbiguousAgent, Draining, OutOfReach, UnknownAgent
from obt_server.storage import StorageUnavailable

RETRY_AFTER_MS: Final = 1000


class OwnerUnknown(OutOfReach):
    """Which process has the agent cannot be read now: the database is away."""

    kind = "owner_unknown"


class NotHere(AgentError):
    """A process was asked for a session that it has not, and did nothing."""

    kind = "session_not_here"


class OwnerCannotStore(StorageUnavailable):
    """The database does not answer the process that has the agent.

    Of a kind of its own between processes alone: as ``storage_failed`` it would arrive as what agents say of
    their stores.
    """

    kind = "owner_cannot_store"


CARRIED: Final = (AgentOffline, UnknownAgent, AmbiguousAgent, Draining, NotHere, OwnerCannotStore)
"""Errors of the hub that are the same for who asked at another process."""


def offline() -> AgentOffline:
    """Return the error for an agent that no process has."""
    return AgentOffline(
        "The agent is not connected. Look at its log on its machine (journalctl -u obt-agent)."
    )
