"""What each process tells the others of its agents, and what it makes of what they tell.

Messages may be lost. Each has the next number: after a gap, the whole list is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

import msgspec
import structlog

from obt_agent.errors import AgentError
from obt_server.bus import (
    Bus,
    BusMessage,
    BusUnavailable,
    Exchanges,
    ReplySink,
    Serving,
)
from obt_server.replicas.messages import AgentUpdate, PresenceNews
from obt_server.replicas.own_agents import PAGE_BYTES, OwnAgents, pages, size_of
from obt_server.replicas.peers import Peer
from obt_server.replicas.remote_agents import RemoteAgents
from obt_server.replicas.subjects import Subjects
from obt_server.tasks import Tasks

log = structlog.get_logger(__name__)

COALESCE_S: Final = 0.25
"""Between two messages of what changed: of an agent that sends without end, the last state alone goes out."""
ALIVE_S: Final = 1.0
"""Between two messages at most: a lost one shows in the number of the next."""
LIST_SILENCE_S: Final = 5.0
LIST_AGAIN_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0
"""Between two tries to read what cannot be read; the first pause is ``LIST_AGAIN_S``."""
_LEFT_AT_ONCE: Final = 2000

_encode: Final = msgspec.msgpack.Encoder().encode
_news: Final = msgspec.msgpack.Decoder(PresenceNews)
_page: Final = msgspec.msgpack.Decoder(list[AgentUpdate])
_wanted: Final = msgspec.msgpack.Decoder(list[str] | None)


class AliveReplicas(Protocol):
    """Which processes run."""

    @property
    def replica_id(self) -> str:
        """This one."""

    def alive(self, replica_id: str) -> bool:
        """Whether one runs, as far as the database tells."""


class PresenceExchange:
    """Presence of all agents, in each process.

    Args:
        own: the agents of this process.
        remote: what is known of all others; nobody else changes it.
        members: which processes run.
        on_update: called with each agent of another process whose presence changed, or that came or went.
    """

    def __init__(
        self, own: OwnAgents, remote: RemoteAgents, members: AliveReplicas, on_update: Callable[[str], None]
    ) -> None:
        self._own = own
        self._remote = remote
        self._members = members
        self._on_update = on_update
        self._peers: dict[str, Peer] = {}
        # processes that were here and are gone, until they are heard again
        self._gone: set[str] = set()
        # what is to be told: of agents that changed, and of those that came or went since
        self._changed: set[str] = set()
        self._urgent: set[str] = set()
        self._left: list[tuple[str, int]] = []
        self._asking = False
        # somebody asked: a word at once, even of nothing
        self._asked = False
        self._number = 0
        self._wake = asyncio.Event()
        # one message after another, so that their numbers are in order
        self._sending = asyncio.Lock()
        self._tasks = Tasks("presence")

    # -- lifetime -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self, bus: Bus, exchanges: Exchanges, subjects: Subjects) -> AsyncIterator[None]:
        """Tell and listen for as long as the context lasts."""
        self._bus, self._exchanges, self._subjects = bus, exchanges, subjects
        own_id = self._members.replica_id
        subscriptions: list[Serving] = [
            await exchanges.serve(subjects.replica(own_id, "presence"), self._list),
            await bus.subscribe(subjects.presence("*"), self._take),
        ]
        bus.on_connection(self._on_connection)
        self._tasks.start(self._publish_changes(), "tell")
        self._tasks.start(self._watch_peers(), "watch")
        self.ask()
        try:
            yield
        finally:
            await self._tasks.close()
            # Said at once, so that nobody asks for agents that are not here any more.
            with contextlib.suppress(AgentError):
                await self._publish([], leaving=True)
            for subscription in subscriptions:
                await subscription.close()

    def _on_connection(self, connected: bool) -> None:  # noqa: FBT001 -- the bus calls it so
        # What was told meanwhile is lost both ways; the numbers show how much.
        if connected:
            self.ask()

    def ask(self) -> None:
        """Have all others say something: whoever is behind asks for their lists then."""
        self._asking = True
        self._wake.set()

    def gone(self, replica_id: str) -> bool:
        """Whether a process was here and is not any more."""
        return replica_id in self._gone and not self._members.alive(replica_id)

    def heard(self, replica_id: str) -> bool:
        """Whether a process has told of all its agents, and tells of what changes."""
        peer = self._peers.get(replica_id)
        return peer is not None and peer.listed and peer.listing is None and not peer.silent

    async def first_lists(self, within_s: float) -> None:
        """Wait until all that have said something have given their lists; at most ``within_s`` seconds."""
        # They answer within milliseconds; whoever does not is found by its next message.
        if self._bus.connected:
            await asyncio.sleep(COALESCE_S)
        listing = [peer.listing for peer in self._peers.values() if peer.listing is not None]
        if listing:
            await asyncio.wait(listing, timeout=within_s)

    # -- telling ------------------------------------------------------------------------------------

    def changed(self, agent_id: str) -> None:
        """An agent of this process has reported something."""
        if agent_id in self._own:
            # One after a pause is told at once, and what follows with the next message.
            if not self._changed:
                self._wake.set()
            self._changed.add(agent_id)

    def came(self, agent_id: str) -> None:
        """An agent of this process can be reached by others: told at once."""
        self._urgent.add(agent_id)
        self._wake.set()

    def left(self, agent_id: str, session: int) -> None:
        """A session of this process ended: told at once."""
        if self._own.left(agent_id, session):
            self._changed.discard(agent_id)
            self._urgent.discard(agent_id)
            self._left.append((agent_id, session))
            self._wake.set()

    async def _publish_changes(self) -> None:
        loop = asyncio.get_running_loop()
        said_at = told_at = 0.0
        while True:
            # In ``changed`` it was woken for the first of those that wait: the rest of the pause is due.
            due_s = max(told_at + COALESCE_S - loop.time(), 0.0) if self._changed else ALIVE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due_s):
                    await self._wake.wait()
            self._wake.clear()
            now = loop.time()
            agents, self._urgent = self._urgent, set()
            if now - told_at >= COALESCE_S:
                agents |= self._changed
                self._changed = set()
                told_at = now
            if agents or self._left or self._asking or self._asked or now - said_at >= ALIVE_S:
                said_at, self._asked = now, False
                try:
                    await self._publish(list(agents))
                # While it is away all others keep what they know, and ask for the list afterwards.
                except BusUnavailable:
                    pass
                # A fault here must not end what others see of this process for good.
                except Exception:
                    log.exception("presence.not_told")

    async def _publish(self, agents: list[str], *, leaving: bool = False) -> None:
        updates = (update for one in agents if (update := self._own.update(one)) is not None)
        left, self._left = self._left, []
        asking, self._asking = self._asking, False
        # However small the messages are that the bus takes.
        most = min(PAGE_BYTES, self._bus.max_payload // 4)
        async with self._sending:
            for page in pages((_fitting(update, most) for update in updates), most):
                await self._send(page, [])
            for start in range(0, len(left), _LEFT_AT_ONCE):
                await self._send([], left[start : start + _LEFT_AT_ONCE])
            # Also without news: that nothing was lost shows in its number.
            await self._send([], [], asking=asking, leaving=leaving)

    async def _send(
        self,
        updates: list[AgentUpdate],
        left: list[tuple[str, int]],
        *,
        asking: bool = False,
        leaving: bool = False,
    ) -> None:
        self._number += 1
        own_id = self._members.replica_id
        news = PresenceNews(own_id, self._number, updates, left, asking, leaving)
        await self._bus.publish(self._subjects.presence(own_id), _encode(news))

    async def _list(self, body: bytes, reply: ReplySink) -> bytes:
        """Give all own agents to another process, or those that it names."""
        wanted = _wanted.decode(body)
        ids = list(self._own) if wanted is None else wanted
        updates = (update for one in ids if (update := self._own.update(one, whole=True)) is not None)
        for page in pages(updates, PAGE_BYTES):
            await reply.send(_encode(page))
            # Whoever has much credit takes all without a wait, and this process has others to serve.
            await asyncio.sleep(0)
        return b""

    # -- listening ----------------------------------------------------------------------------------

    def _take(self, message: BusMessage) -> None:
        try:
            news = _news.decode(message.data)
        # Of another release, while one server after the other is replaced.
        except msgspec.MsgspecError as error:
            log.warning("replica.news_unreadable", subject=message.subject, error=str(error))
            return
        if news.replica == self._members.replica_id:
            return
        self._gone.discard(news.replica)
        peer = self._peers.get(news.replica)
        if news.leaving:
            self._forget(news.replica)
            return
        if peer is None:
            peer = self._peers[news.replica] = Peer(news.replica)
        peer.heard()
        if news.asking:
            self._asked = True
            self._wake.set()
        if peer.listing is not None:
            peer.keep(news)
        elif peer.follows(news):
            self._apply(peer, news)
        else:
            self._ask_for_list(peer, news)

    def _apply(self, peer: Peer, news: PresenceNews) -> None:
        for agent_id, session in news.left:
            self._remote.end(agent_id, session)
            # Also where nobody had told of it: it may be shown as the database has it.
            self._on_update(agent_id)
        too_large = [update.agent_id for update in news.updates if update.fetch]
        for update in news.updates:
            if not update.fetch and self._remote.apply(peer.replica_id, update):
                self._on_update(update.agent_id)
        if too_large:
            peer.to_fetch.update(too_large)
            if peer.fetching is None:
                peer.fetching = self._tasks.start(self._fetch(peer), f"fetch from {peer.replica_id}")
        # Last: of a message whose taking failed in the middle, the rest comes with the list.
        peer.number = max(news.number, peer.number or 0)

    def _ask_for_list(self, peer: Peer, news: PresenceNews) -> None:
        peer.begin_list(news)
        peer.listing = self._tasks.start(self._read_list(peer), f"list of {peer.replica_id}")

    async def _read_list(self, peer: Peer) -> None:
        """Take a process's whole list, then what it told meanwhile."""
        listed: set[str] = set()
        try:
            whole = await self._read(peer, None, listed)
        finally:
            peer.listing = None
        if self._peers.get(peer.replica_id) is not peer:
            return
        peer.listed |= whole
        if not whole:
            # It is gone, or cannot be heard: what is known of it is dropped in its time. Should it come back,
            # its first message asks again.
            peer.lose_place()
            return
        kept = peer.take_kept()
        told = {update.agent_id for news in kept for update in news.updates}
        for agent_id in self._remote.drop_all(peer.replica_id, frozenset(listed | told)):
            self._on_update(agent_id)
        for news in kept:
            if not peer.follows(news):
                self._ask_for_list(peer, news)
                return
            self._apply(peer, news)

    async def _read(self, peer: Peer, wanted: list[str] | None, listed: set[str]) -> bool:
        """Read the list, or a part of it, until that succeeds; return False where the peer fell silent."""
        pause_s = LIST_AGAIN_S
        while not (whole := await self._read_once(peer, wanted, listed)) and not peer.silent:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return whole

    async def _read_once(self, peer: Peer, wanted: list[str] | None, listed: set[str]) -> bool:
        """Read the list, or a part of it; return False where it is to be asked for again."""
        subject = self._subjects.replica(peer.replica_id, "presence")
        listed.clear()
        try:
            async with self._exchanges.stream(subject, _encode(wanted), silence_s=LIST_SILENCE_S) as stream:
                async for batch in stream:
                    for page in batch:
                        self._take_page(peer, _page.decode(page), listed)
        # Also where nobody listens there: its connection may be away for a moment.
        except (AgentError, msgspec.MsgspecError) as error:
            log.info("replica.list_failed", replica=peer.replica_id, error=str(error))
            return False
        return True

    def _take_page(self, peer: Peer, page: list[AgentUpdate], listed: set[str]) -> None:
        for update in page:
            listed.add(update.agent_id)
            if self._remote.apply(peer.replica_id, update):
                self._on_update(update.agent_id)

    async def _fetch(self, peer: Peer) -> None:
        """Take what was too large for a message: of what it told, nothing is told a second time."""
        try:
            while peer.to_fetch and self._peers.get(peer.replica_id) is peer:
                asked = list(peer.to_fetch)
                peer.to_fetch.clear()
                if not await self._read(peer, asked, set()):
                    # The list that its next message asks for has them.
                    peer.lose_place()
                    return
        finally:
            peer.fetching = None

    # -- processes that go --------------------------------------------------------------------------

    async def _watch_peers(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            for peer in list(self._peers.values()):
                if peer.is_gone(alive=self._members.alive(peer.replica_id)):
                    log.warning("replica.gone", replica=peer.replica_id)
                    self._forget(peer.replica_id)

    def _forget(self, replica_id: str) -> None:
        peer = self._peers.pop(replica_id, None)
        for task in () if peer is None else (peer.listing, peer.fetching):
            if task is not None:
                task.cancel()
        self._gone.add(replica_id)
        for agent_id in self._remote.drop_all(replica_id):
            self._on_update(agent_id)


def _fitting(update: AgentUpdate, most: int) -> AgentUpdate:
    """Return an update, or a word that it is to be fetched where it would fill a message."""
    if size_of(update) <= most:
        return update
    return AgentUpdate(update.agent_id, update.session, update.stamp, update.heard_ago_s, {}, fetch=True)
