"""``Membership``: one beat a second in the database, and what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from typing import Final

import structlog

from obt_agent.errors import StorageFailed
from obt_server.replica_storage import LeaderLease, ReplicaState, ReplicaStorage
from obt_server.replicas.beat_record import BeatRecord

log = structlog.get_logger(__name__)

EVERY_S: Final = 1.0
"""Between the beginnings of two beats."""
PAUSE_S: Final = 0.2
"""Between the end of a beat and the next, at least."""


class Membership:
    """Says in the database that this replica runs; knows which others do, and which one leads.

    While the database is away this replica stops leading, and what it knows of others stays as it is: nobody
    is gone because nobody can be heard.

    Args:
        storage: where the beats go.
        clock: a monotonic one, in seconds.
    """

    def __init__(self, storage: ReplicaStorage, clock: Callable[[], float] = time.monotonic) -> None:
        self.replica_id = uuid.uuid4().hex
        """Of this one. It is new with each start, so that no other process ever has it."""
        self.cluster = ""
        """The random id of the database; known when ``start`` returns."""
        self.describe: Callable[[], ReplicaState] = ReplicaState
        """Returns what this replica says of itself with each beat."""
        self._storage = storage
        self._clock = clock
        self._record = BeatRecord(self.replica_id)
        self._observers: dict[object, Callable[[], None]] = {}
        # what observers were told last: the others that run, the leader, the lease of this one
        self._told: object = None
        self._lapse: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._answered = True

    @property
    def lease(self) -> LeaderLease | None:
        """The lease under which this replica leads now; None while it does not.

        It ends by this process's own clock before others can have it, also where the process was stopped.
        """
        return None if self._closing.is_set() else self._record.lease(self._clock())

    @property
    def leading(self) -> bool:
        """Whether this replica leads now."""
        return self.lease is not None

    @property
    def leader(self) -> str | None:
        """The replica that leads, as of the last beat; None where nobody does."""
        return None if self._closing.is_set() else self._record.leader(self._clock())

    @property
    def epoch(self) -> int:
        """The number of the last lease that is known of, whoever has it."""
        return self._record.epoch

    @property
    def others(self) -> frozenset[str]:
        """The other replicas that run."""
        return self._record.others()

    def alive(self, replica_id: str) -> bool:
        """Whether a replica runs. Of this one: whether the database answered it within 10 s."""
        return self._record.alive(replica_id, self._clock())

    def observe(self, observer: Callable[[], None]) -> Callable[[], None]:
        """Call ``observer`` when others came or went, or another one leads; it must be quick and not raise.

        Returns:
            What ends that; called again it does nothing.
        """
        key = object()
        self._observers[key] = observer

        def stop() -> None:
            self._observers.pop(key, None)

        return stop

    async def start(self) -> None:
        """Beat for the first time, then once a second until ``close``.

        Raises:
            StorageFailed: the database does not answer.
        """
        await self.beat()
        self._beating = asyncio.create_task(self._run(), name="replica beats")

    async def close(self) -> None:
        """Stop leading, and leave, so that others need not wait for the silence."""
        self._closing.set()
        self._tell()
        if self._beating is None:
            return
        # A beat on its way is waited for: it must not take back what is given up now.
        await self._beating
        self._beating = None
        try:
            await self._storage.leave(self.replica_id)
        except StorageFailed as error:
            # Others find the silence.
            log.warning("replicas.not_left", error=error.message)

    async def beat(self) -> None:
        """Beat once. Raises StorageFailed."""
        began = self._clock()
        lead = self._record.would_lead(began)
        found = await self._storage.beat(self.replica_id, lead=lead, state=self.describe())
        self._record.take(found, began, self._clock())
        self.cluster = found.cluster
        self._tell()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + EVERY_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._closing.wait()
            if self._closing.is_set():
                return
            due = loop.time() + EVERY_S
            await self._try()
            due = max(due, loop.time() + PAUSE_S)

    async def _try(self) -> None:
        try:
            await self.beat()
        except StorageFailed as error:
            # Once for each time that it is away.
            if self._answered:
                log.warning("replicas.no_beat", error=error.message)
            self._answered = False
        # A fault of the program must not end the beats: this replica would be gone for all others.
        except Exception:
            log.exception("replicas.beat_failed")
        else:
            self._answered = True

    def _tell(self) -> None:
        """Tell observers what changed, and look again when this replica stops leading by its clock."""
        if self._lapse is not None:
            self._lapse.cancel()
            self._lapse = None
        until = self._record.leads_until()
        if self.leading and until is not None:
            # Asked again then: a timer may come a moment early.
            after = max(until - self._clock(), 0.0)
            self._lapse = asyncio.get_running_loop().call_later(after, self._tell)
        known = (self.others, self.leader, self.lease)
        if known == self._told:
            return
        self._told = known
        log.info("replicas.changed", others=len(self.others), leader=self.leader, epoch=self.epoch)
        for observer in list(self._observers.values()):
            try:
                observer()
            except Exception:
                log.exception("replicas.observer_failed")
