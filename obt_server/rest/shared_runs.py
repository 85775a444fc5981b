"""Rollouts and campaigns as the leader shows them, at every replica.

The leader encodes what is new once, and publishes it. Each replica keeps, of everything that runs, what who
comes new is to see; it asks the leader for all of that at first, when another one leads, and when a message
was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

import msgspec
import structlog

from obt_agent.errors import AgentError
from obt_server.bus import BusMessage, ReplySink, Serving
from obt_server.hub.events import CampaignChanged, Event, EventBus, RolloutChanged
from obt_server.replica_storage import LeaderLease
from obt_server.replicas.parts import Replicas
from obt_server.rest.run_news import RunEvent, RunNews
from obt_server.tasks import end_tasks

log = structlog.get_logger(__name__)

SAID_EVERY_S: Final = 0.5
"""Between two messages: the first change is said at once, what comes meanwhile together."""
AGAIN_AFTER_S: Final = 1.0
"""After the leader did not answer."""
ANSWERED_WITHIN_S: Final = 5.0
MESSAGE_BYTES: Final = 512 << 10
"""Of events in one message; the bus carries 1 MiB."""
_PART: Final = "runs"


class RunsMessage(msgspec.Struct, frozen=True, array_like=True):
    """What a leader says. Messages of an epoch are numbered from 1, so that a lost one shows.

    ``anew``: something was too large for a message; ask for everything.
    """

    epoch: int
    number: int
    events: list[RunEvent]
    anew: bool = False


class SharedRuns:
    """What runs, as the leader says.

    Args:
        replicas: who leads, and the ways there.
        events: of this process; those of rollouts and campaigns are said while it leads.
        news: what its engines have to say.
    """

    def __init__(self, replicas: Replicas, events: EventBus, news: RunNews) -> None:
        self._replicas = replicas
        self._events = events
        self._news = news
        self._show: Callable[[bytes], None] = lambda _: None
        self._restart: Callable[[], None] = lambda: None
        # By kind and id, in the order in which they came.
        self._running: dict[tuple[str, str], bytes] = {}
        # The epoch that this is of, and the number of the last message that is in it.
        self._epoch, self._number = -1, 0
        # Messages that came while the leader was asked for everything.
        self._early: list[RunsMessage] | None = None
        # Set when the leader may have to be asked: another one leads, or something was lost.
        self._wanted = asyncio.Event()
        self._lost = True
        self._leading: LeaderLease | None = None
        self._asking: asyncio.Task[None] | None = None
        self._subscriptions: list[Serving] = []
        self._stop_observing: Callable[[], None] = lambda: None

    def show_to(self, show: Callable[[bytes], None], restart: Callable[[], None]) -> None:
        """Have events shown, and everything shown anew where another leader says it."""
        self._show, self._restart = show, restart

    def running(self) -> bytes:
        """Return all that run, as events for who comes new."""
        return b"".join(self._running.values())

    async def start(self) -> None:
        """Hear what the leader says from now on."""
        replicas = self._replicas
        subjects = replicas.subjects
        mine = subjects.replica(replicas.membership.replica_id, _PART)
        self._subscriptions = [
            await replicas.exchanges.serve(mine, self._serve),
            await replicas.bus.subscribe(subjects.runs, self._hear),
        ]
        self._stop_observing = replicas.membership.observe(self._wanted.set)
        # What was said while the bus was away nobody repeats.
        replicas.bus.on_connection(self._on_connection)
        self._wanted.set()
        self._asking = asyncio.create_task(self._ask(), name="runs of the leader")

    async def close(self) -> None:
        """Hear nothing more."""
        self._stop_observing()
        for one in self._subscriptions:
            await one.close()
        if self._asking is not None:
            await end_tasks([self._asking])

    # -- at the leader ----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def leading(self, lease: LeaderLease) -> AsyncIterator[None]:
        """Say what is new for as long as the context lasts; the engines run meanwhile."""
        changed = asyncio.Event()
        changes: dict[tuple[str, str], RolloutChanged | CampaignChanged] = {}

        def note(event: Event) -> None:
            # The last one of each: what is read then is how it is.
            if isinstance(event, RolloutChanged):
                changes["rollout", event.rollout_id] = event
            elif isinstance(event, CampaignChanged):
                changes["campaign", event.campaign_id] = event
            else:
                return
            changed.set()

        async def say() -> None:
            while True:
                await changed.wait()
                changed.clear()
                taken = list(changes.values())
                changes.clear()
                found = [self._news.of(one) for one in taken]
                await self._say([one for one in found if one is not None])
                await asyncio.sleep(SAID_EVERY_S)

        self._leading, self._early = lease, None
        self._begin(lease.epoch, 0, self._news.running())
        stop = self._events.observe(note)
        saying = asyncio.create_task(say(), name="news of runs")
        # Others ask for everything now, and not only when they next look.
        with contextlib.suppress(AgentError):
            await self._publish([], anew=True)
        try:
            yield
        finally:
            stop()
            self._leading = None
            self._wanted.set()
            await end_tasks([saying])

    async def _say(self, events: list[RunEvent]) -> None:
        if not events:
            return
        self._take(events)
        for some, anew in _in_messages(events):
            # Without the bus nobody hears it; the number shows that, and they ask.
            with contextlib.suppress(AgentError):
                await self._publish(some, anew=anew)

    async def _publish(self, events: list[RunEvent], *, anew: bool) -> None:
        self._number += 1
        message = RunsMessage(self._epoch, self._number, events, anew)
        await self._replicas.bus.publish(self._replicas.subjects.runs, msgspec.msgpack.encode(message))

    async def _serve(self, body: bytes, reply: ReplySink) -> bytes:
        del body, reply  # an answer is one piece
        if self._leading is None:
            raise AgentError("This server process does not lead.", retry_after_ms=1000)
        whole = [
            RunEvent("rollout" if kind == "rollout" else "campaign", run_id, b"", text)
            for (kind, run_id), text in self._running.items()
        ]
        return msgspec.msgpack.encode(RunsMessage(self._epoch, self._number, whole))

    # -- at every replica -------------------------------------------------------------------------------

    def _begin(self, epoch: int, number: int, events: Iterable[RunEvent]) -> None:
        self._epoch, self._number = epoch, number
        self._running = {(one.kind, one.id): one.whole for one in events if one.whole is not None}
        self._restart()

    def _take(self, events: Iterable[RunEvent]) -> None:
        for one in events:
            if one.whole is None:
                self._running.pop((one.kind, one.id), None)
            else:
                self._running[one.kind, one.id] = one.whole
        self._show(b"".join(one.text for one in events))

    def _hear(self, message: BusMessage) -> None:
        try:
            said = msgspec.msgpack.decode(message.data, type=RunsMessage)
        except msgspec.MsgspecError:
            # Another release's: it is asked, and answers what this one can read, or nothing.
            self._ask_again()
            return
        # The own ones come back, and a leader of before may say something yet.
        if self._leading is not None or said.epoch < self._epoch:
            return
        if self._early is not None:
            self._early.append(said)
        else:
            self._apply(said)

    def _apply(self, said: RunsMessage) -> None:
        if said.epoch == self._epoch and said.number <= self._number:
            return
        if said.anew or said.epoch != self._epoch or said.number != self._number + 1:
            self._ask_again()
            return
        self._number = said.number
        self._take(said.events)

    def _on_connection(self, connected: bool) -> None:  # noqa: FBT001 - as the bus calls it
        if connected:
            self._ask_again()

    def _ask_again(self) -> None:
        self._lost = True
        self._wanted.set()

    async def _ask(self) -> None:
        """Ask the leader for everything, whenever that is wanted."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            membership = self._replicas.membership
            leader = membership.leader
            if self._leading is not None or leader in (None, membership.replica_id):
                continue
            # Others came or went.
            if not self._lost and membership.epoch == self._epoch:
                continue
            self._lost, self._early = False, []
            try:
                await self._ask_one(str(leader))
            # MsgspecError: a leader of another release, until that is replaced, too.
            except (AgentError, msgspec.MsgspecError) as error:
                log.info("runs.not_answered", leader=leader, error=str(error))
                await asyncio.sleep(AGAIN_AFTER_S)
                self._ask_again()
            finally:
                early, self._early = self._early or [], None
            for said in early:
                self._apply(said)

    async def _ask_one(self, leader: str) -> None:
        replicas = self._replicas
        subject = replicas.subjects.replica(leader, _PART)
        text = await replicas.exchanges.call(subject, b"", timeout_s=ANSWERED_WITHIN_S)
        said = msgspec.msgpack.decode(text, type=RunsMessage)
        if self._leading is None and said.epoch >= self._epoch:
            self._begin(said.epoch, said.number, said.events)


def _in_messages(events: list[RunEvent]) -> Iterable[tuple[list[RunEvent], bool]]:
    """Yield events in messages that the bus carries, and whether everything is to be asked for instead."""
    some: list[RunEvent] = []
    size = 0
    for one in events:
        length = len(one.text) + len(one.whole or b"") + 100
        if length > MESSAGE_BYTES:
            yield [], True
            continue
        if some and size + length > MESSAGE_BYTES:
            yield some, False
            some, size = [], 0
        some.append(one)
        size += length
    if some:
        yield some, False
