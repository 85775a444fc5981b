"""Events of each process at all others. Presence has a way of its own (``presence_exchange``)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final

import msgspec
import structlog

from obt_agent.errors import AgentError
from obt_server.bus import Bus, BusMessage
from obt_server.hub.events import (
    AgentChanged,
    CampaignChanged,
    Event,
    EventBus,
    JobChanged,
    RegressionChanged,
    RolloutChanged,
)
from obt_server.replicas.messages import (
    CampaignMessage,
    EndMessage,
    EventMessage,
    JobMessage,
    RecordMessage,
    RegressionMessage,
    RolloutMessage,
)
from obt_server.replicas.subjects import Subjects
from obt_server.tasks import Tasks

log = structlog.get_logger(__name__)

GATHER_S: Final = 0.02
"""Events that come within that are one message."""
MOST_WAITING: Final = 20_000
"""Events that wait for the bus; the oldest are dropped."""
_PAGE_BYTES: Final = 256 << 10
_HEAD_BYTES: Final = 5
"""Of a list in msgpack, before what it holds."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(list[EventMessage])


class EventBridge:
    """Passes this process's events to all others, and theirs to whoever listens here.

    Args:
        events: those of this process.
        own_id: which process it is.
        on_record: called with agents whose record an operator changed elsewhere.
        on_end: called with agents whose session must end.
    """

    def __init__(
        self,
        events: EventBus,
        own_id: str,
        on_record: Callable[[str], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._events = events
        self._own_id = own_id
        self._on_record = on_record
        self._on_end = on_end
        # in order; progress of a job takes the place of earlier progress of it
        self._waiting: dict[tuple[object, ...], EventMessage] = {}
        # set while an event of another process is passed on here: it must not go out again
        self._relaying = False
        self._wake = asyncio.Event()
        self._tasks = Tasks("events")

    @contextlib.asynccontextmanager
    async def running(self, bus: Bus, subjects: Subjects) -> AsyncIterator[None]:
        """Pass events on for as long as the context lasts."""
        subscription = await bus.subscribe(subjects.events("*"), self._take)
        stop = self._events.observe(self._on_event)
        self._tasks.start(self._publish_all(bus, subjects.events(self._own_id)), "publish")
        try:
            yield
        finally:
            stop()
            await self._tasks.close()
            with contextlib.suppress(AgentError):
                await self._publish(bus, subjects.events(self._own_id))
            await subscription.close()

    def record_changed(self, agent_id: str) -> None:
        """An operator changed an agent's record here."""
        self._put(("record", agent_id), RecordMessage(agent_id))

    def end(self, agent_id: str) -> None:
        """End an agent's session wherever it is."""
        self._put(("end", agent_id), EndMessage(agent_id))

    def _on_event(self, event: Event) -> None:
        if self._relaying:
            return
        match event:
            case JobChanged():
                # By its state as well: that a job ended is told, whatever is said of it afterwards.
                key = ("job", event.agent_id, event.job_id, event.state)
                self._put(key, JobMessage(event.agent_id, event.job_id, event.state, event.progress))
            case RolloutChanged():
                self._put(("rollout", event.rollout_id), RolloutMessage(event.rollout_id))
            case CampaignChanged():
                self._put(("campaign", event.campaign_id), CampaignMessage(event.campaign_id))
            case RegressionChanged():
                news = RegressionMessage(event.regression_id, event.view)
                self._put(("regression", event.regression_id), news)
            case AgentChanged():
                pass  # others hear of it with the presence that changed

    def _put(self, key: tuple[object, ...], news: EventMessage) -> None:
        self._waiting[key] = news
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._wake.set()

    async def _publish_all(self, bus: Bus, subject: str) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            try:
                await self._publish(bus, subject)
            # Who listens elsewhere reads anew what it shows when the bus is back.
            except AgentError as error:
                log.info("events.not_passed_on", error=error.message)
            # A fault here must not keep what follows from the others for good.
            except Exception:
                log.exception("events.failed")

    async def _publish(self, bus: Bus, subject: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for page in _pages(waiting.values(), min(_PAGE_BYTES, bus.max_payload)):
            await bus.publish(subject, page)

    def _take(self, message: BusMessage) -> None:
        if message.subject.rpartition(".")[2] == self._own_id:
            return
        try:
            news = _decoder.decode(message.data)
        except msgspec.MsgspecError as error:
            log.warning("events.unreadable", subject=message.subject, error=str(error))
            return
        self._relaying = True
        try:
            for one in news:
                self._pass_on(one)
        finally:
            self._relaying = False

    def _pass_on(self, news: EventMessage) -> None:
        match news:
            case JobMessage():
                self._events.relay(JobChanged(news.agent_id, news.job_id, news.state, news.progress))
            case RolloutMessage():
                self._events.relay(RolloutChanged(news.rollout_id))
            case CampaignMessage():
                self._events.relay(CampaignChanged(news.campaign_id))
            case RegressionMessage():
                self._events.relay(RegressionChanged(news.regression_id, news.view))
            case RecordMessage():
                self._on_record(news.agent_id)
            case EndMessage():
                self._on_end(news.agent_id)


def _pages(news: Iterable[EventMessage], most: int) -> Iterator[bytes]:
    """Return messages of at most ``most`` bytes, in order, without events that are larger."""
    page: list[msgspec.Raw] = []
    room = most - _HEAD_BYTES
    for one in news:
        event = _encoded(one, most - _HEAD_BYTES)
        if event is None:
            continue
        if len(event) > room:
            yield _encode(page)
            page, room = [], most - _HEAD_BYTES
        page.append(msgspec.Raw(event))
        room -= len(event)
    if page:
        yield _encode(page)


def _encoded(news: EventMessage, most: int) -> bytes | None:
    """Return an event; None where it is too large, or cannot be encoded: others on its page are not lost."""
    try:
        event = _encode(news)
    except Exception:
        log.exception("events.not_encoded", kind=type(news).__name__)
        return None
    if len(event) > most:
        log.warning("events.too_large", kind=type(news).__name__, bytes=len(event))
        return None
    return event
