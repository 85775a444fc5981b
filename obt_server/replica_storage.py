"""What several server processes (replicas) on one database need of it: who runs, and who leads.

All times are the database's, so that no two machines' clocks are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

import msgspec

from obt_agent.errors import Busy

LEASE_S: Final = 10.0
"""For which a lease holds after each beat of its holder. Whoever leads stops earlier by its own clock."""
BEAT_WITHIN_S: Final = 3.0
"""For a beat. It is given up then, also where the database hangs."""
KEPT_S: Final = 3600.0
"""For which a replica that beats no more stays in the table."""


class LeaseLost(Busy):
    """Another replica leads: nothing of this transaction was written."""


@dataclass(frozen=True, kw_only=True)
class LeaderLease:
    """The right to lead, of one holder. A later one, of the same holder too, has a higher ``epoch``."""

    holder: str
    epoch: int


class ReplicaState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a replica says of itself with each beat, for people who look.

    ``exchanges`` are requests to and from other replicas that are open.
    """

    host: str = ""
    version: str = ""
    bus_connected: bool = False
    exchanges: int = 0


@dataclass(frozen=True, kw_only=True)
class ReplicaSeen:
    """A replica as the database has it.

    ``age_s`` is since its last beat, by the database's clock; ``epoch`` that of its lease, if it leads.
    """

    id: str
    age_s: float
    epoch: int | None
    state: ReplicaState


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a beat found, its own included.

    Args:
        replicas: by id, of those that have not left: seconds since the last beat.
        beats: by id, of the same: their number. Another one is another beat, whatever the clocks say.
        left: those that stopped cleanly, for ``KEPT_S``.
        leader: who holds the lease; None while nobody does.
        epoch: of the last lease; 0 before the first.
        cluster: a random id of this database, 32 hexadecimal digits.
        now: the database's time, at some moment while it was asked.
    """

    replicas: Mapping[str, float]
    beats: Mapping[str, int]
    left: frozenset[str] = field(default=frozenset())
    leader: str | None
    epoch: int
    cluster: str
    now: float


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Where an agent was admitted last: the session's number, and the replica that has it.

    ``replica`` is None where the session has ended, and where a server alone on its database admitted it.
    A replica that died without a word stays here: whether it lives, its beats say.
    """

    session: int
    replica: str | None


class ReplicaStorage(Protocol):
    """The storage that replicas share. ``obt_server.store.SqlStorage`` is one."""

    async def beat(self, replica_id: str, *, lead: bool, state: ReplicaState | None = None) -> Beat:
        """Say that a replica runs, and look who else does; take or renew the lease, as one transaction.

        Args:
            replica_id: of the one that asks; no other one has it.
            lead: whether it would lead. It gets the lease where nobody holds it, in a new epoch. Without,
                it gives up the lease that it holds.
            state: what it says of itself.

        Raises:
            StorageFailed: the database did not answer within ``BEAT_WITHIN_S``. Whether the beat was stored
                is not known then.
        """

    async def leave(self, replica_id: str) -> None:
        """Give up lease and place at once, at a clean stop. Raises StorageFailed."""

    async def confirm(self) -> None:
        """Write nothing. Raises StorageFailed, and LeaseLost as any write of a fenced storage does."""

    async def owner(self, agent_id: str) -> Owner | None:
        """Return where an agent was admitted last; None where no agent has that id. Raises StorageFailed."""

    async def replicas(self) -> Sequence[ReplicaSeen]:
        """Return those that have not left, by id. Raises StorageFailed."""

    def fenced(self, lease: LeaderLease) -> Self:
        """Return this storage, but each of its writes raises LeaseLost once another lease was given.

        A write that returned was committed before that: whoever leads next reads it.
        """
