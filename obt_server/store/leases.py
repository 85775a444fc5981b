"""The lease of whoever leads: given and renewed, and checked by each write that it is for.

A write takes a lock that a renewal does not meet (FOR KEY SHARE), and the lease is given on when nobody holds
such a lock. So what a leader writes is committed before that, or never: also where its process was stopped in
the middle, or the network lost it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import Function, func, insert, select, true, update
from sqlalchemy.orm import Session

from obt_server.replica_storage import LEASE_S, LeaderLease, LeaseLost
from obt_server.store.replica_tables import LeaseRow
from obt_server.store.transactions import Rows, Statement, Transactions

P = ParamSpec("P")
T = TypeVar("T")

LEADER: Final = "leader"
"""The name of the lease."""
IDLE_S: Final = 5
"""Between two statements of a transaction that holds a lock of the lease up. The database ends one whose
process does not go on, well before the lease runs out, so that it can be given."""


class _Found(NamedTuple):
    """The lease as it is read."""

    holder: str
    epoch: int
    expires_at: float


def short_idle(db: Session) -> None:
    """Have the database end this transaction early where its process hangs."""
    if db.connection().dialect.name == "postgresql":
        db.execute(select(_short_idle()))


def _short_idle() -> Function[Any]:
    return func.set_config("idle_in_transaction_session_timeout", f"{IDLE_S}s", true())


def current(db: Session, now: float) -> tuple[str | None, int]:
    """Return who holds the lease at that time by the database's clock, and its epoch."""
    found = _read(db)
    if found is None:
        return None, 0
    return (found.holder if _holds(found, now) else None), found.epoch


def renew(db: Session, holder: str, now: float, *, lead: bool) -> None:
    """Give a replica the lease, or ``LEASE_S`` more of it, where it may have it; without ``lead`` take it."""
    found = _read(db)
    if found is None:
        # Of two that insert it the second fails, and runs again.
        if lead:
            first = {"holder": holder, "epoch": 1, "expires_at": now + LEASE_S}
            db.execute(insert(LeaseRow).values(name=LEADER, **first))
        return
    free = not _holds(found, now)
    if lead and free:
        _take(db, holder, now, found)
    elif found.holder == holder and not free:
        same = LeaseRow.name == LEADER, LeaseRow.holder == holder, LeaseRow.epoch == found.epoch
        db.execute(update(LeaseRow).where(*same).values(expires_at=now + LEASE_S if lead else now))


def _take(db: Session, holder: str, now: float, found: _Found) -> None:
    """Take a lease that is free, in a new epoch; the next beat tries again where somebody has a lock."""
    as_found = LeaseRow.epoch == found.epoch, LeaseRow.expires_at == found.expires_at
    mine = select(LeaseRow.name).where(LeaseRow.name == LEADER, *as_found)
    # Not waited for: a beat says that this process lives, and a write of the old leader may hang for seconds.
    if db.scalar(mine.with_for_update(skip_locked=True)) is not None:
        taken = {"holder": holder, "epoch": found.epoch + 1, "expires_at": now + LEASE_S}
        db.execute(update(LeaseRow).where(LeaseRow.name == LEADER).values(**taken))


def _read(db: Session) -> _Found | None:
    content = select(LeaseRow.holder, LeaseRow.epoch, LeaseRow.expires_at)
    row = db.execute(content.where(LeaseRow.name == LEADER)).one_or_none()
    return None if row is None else _Found(*row)


def _holds(found: _Found, now: float) -> bool:
    # An end far ahead was written before the database's clock was set back: it must not hold for hours.
    return now < found.expires_at < now + 2 * LEASE_S


def require(db: Session, lease: LeaderLease) -> None:
    """Keep the lease from being given on until this transaction ends. Raise LeaseLost where it was."""
    row = select(LeaseRow.holder, LeaseRow.epoch).where(LeaseRow.name == LEADER)
    if db.connection().dialect.name == "postgresql":
        row = row.add_columns(_short_idle()).with_for_update(read=True, key_share=True)
    found = db.execute(row).one_or_none()
    if found is None or (found[0], found[1]) != (lease.holder, lease.epoch):
        raise LeaseLost("Another server process leads now; try again.", retry_after_ms=1000)


def _fenced(db: Session, lease: LeaderLease, work: Callable[[Session], T]) -> T:
    require(db, lease)
    return work(db)


class FencedDatabase:
    """A database whose writes fail once another lease was given.

    Args:
        database: where they go.
        lease: of whoever writes.
    """

    def __init__(self, database: Transactions, lease: LeaderLease) -> None:
        self._database = database
        self._lease = lease

    async def run(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See ``Database.run``. Raise LeaseLost."""
        return await self._database.run(_fenced, self._lease, lambda db: work(db, *args, **kwargs))

    async def run_for(
        self, agent_id: str, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See ``Database.run_for``. Raise LeaseLost."""
        return await self._database.run_for(
            agent_id, _fenced, self._lease, lambda db: work(db, *args, **kwargs)
        )

    def run_later(
        self, work: Callable[Concatenate[Session, P], object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """See ``Database.run_later``."""
        self._database.run_later(_fenced, self._lease, lambda db: work(db, *args, **kwargs))

    async def read(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See ``Database.read``: whoever reads needs no lease."""
        return await self._database.read(work, *args, **kwargs)

    async def look_up(self, statement: Statement, **parameters: str) -> Rows:
        """See ``Database.look_up``."""
        return await self._database.look_up(statement, **parameters)

    async def run_apart(
        self, within_s: float, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See ``Database.run_apart``: the lease itself is renewed so."""
        return await self._database.run_apart(within_s, work, *args, **kwargs)
