"""The way to an agent of another process: the database says which one has it, an exchange asks there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import msgspec

from obt_agent.errors import AgentError, LinkLost, StorageFailed
from obt_server.bus import BusUnavailable, Exchanges, NoResponders, RemoteStream
from obt_server.hub import AgentStream, OutOfReach
from obt_server.replica_storage import Owner, ReplicaStorage
from obt_server.replicas.errors import RETRY_AFTER_MS, NotHere, OwnerCannotStore, OwnerUnknown, offline
from obt_server.replicas.messages import Asked, ToAgent
from obt_server.replicas.subjects import Subjects
from obt_server.storage import StorageUnavailable

OWNER_WITHIN_S: Final = 1.5
"""For the database's answer: who asks is answered within two seconds where it is away."""
AGAIN_S: Final = 0.1
"""After which a session that nobody answers for is looked up again: it may have begun a moment ago."""
MARGIN_S: Final = 5.0
"""Beyond the deadline of the process that has the agent: its word, and why, comes first."""

_encode: Final = msgspec.msgpack.Encoder().encode


class AgentRoutes:
    """Asks other processes about their agents.

    Args:
        storage: says who has an agent. It is asked each time: what was known of an agent that moved since
            would lead to a process that has it no more.
        exchanges: the way.
        subjects: the address of each session.
        gone: whether a process is known to run no more.
    """

    def __init__(
        self,
        storage: ReplicaStorage,
        exchanges: Exchanges,
        subjects: Subjects,
        gone: Callable[[str], bool],
    ) -> None:
        self._storage = storage
        self._exchanges = exchanges
        self._subjects = subjects
        self._gone = gone
        self._streams: set[RemoteAgentStream] = set()
        # why streams end from now on; empty before
        self._ending = ""

    async def call(self, agent_id: str, asked: Asked, timeout_s: float) -> bytes:
        """Ask the process that has the agent, and return its answer.

        Args:
            agent_id: the agent.
            asked: what.
            timeout_s: for which that process may work on it.

        Raises:
            AgentOffline: no process has the agent; nothing was sent.
            OutOfReach: there is no way to other processes now, or it was lost before a word of the answer;
                or (``OwnerUnknown``) the database does not say which one has it.
            LinkLost: the process fell silent before it answered.
            StorageUnavailable: the database does not answer that process; a job may be stored all the same.
            AgentError: what it answered.
        """
        async with contextlib.aclosing(self._places(agent_id)) as places:
            async for subject, session in places:
                body = _encode(ToAgent(agent_id, session, asked))
                # Nothing happened there, and another session may be asked.
                with contextlib.suppress(NoResponders, NotHere), _reaching():
                    return await self._exchanges.call(subject, body, timeout_s=timeout_s + MARGIN_S)
        raise offline()

    @contextlib.asynccontextmanager
    async def stream(
        self, agent_id: str, asked: Asked, method: str, silence_s: float
    ) -> AsyncIterator[RemoteAgentStream]:
        """Open a stream there; leaving the context ends it. Raises as ``call``, and so does reading it."""
        async with (
            contextlib.aclosing(self._places(agent_id)) as places,
            contextlib.AsyncExitStack() as stack,
        ):

            async def opened() -> RemoteStream:
                async for subject, session in places:
                    if self._ending:
                        raise LinkLost(self._ending)
                    body = _encode(ToAgent(agent_id, session, asked))
                    opening = self._exchanges.stream(subject, body, silence_s=silence_s + MARGIN_S)
                    with _reaching():
                        return await stack.enter_async_context(opening)
                raise offline()

            stream = RemoteAgentStream(method, await opened(), opened)
            self._streams.add(stream)
            if self._ending:
                stream.end(LinkLost(self._ending))
            try:
                yield stream
            finally:
                self._streams.discard(stream)

    def end_streams(self, why: str) -> None:
        """End all that are open, and those that are asked for later, with LinkLost."""
        self._ending = why
        for stream in list(self._streams):
            stream.end(LinkLost(why))

    async def check(self, agent_id: str) -> None:
        """Raise AgentOffline where no process has the agent, and OwnerUnknown."""
        async with contextlib.aclosing(self._places(agent_id)) as places:
            async for _ in places:
                return
        raise offline()

    async def _places(self, agent_id: str) -> AsyncGenerator[tuple[str, int], None]:
        """Whom to ask, and for which session; again where that one was not there: it may have moved."""
        asked_for = None
        for _ in range(3):
            owner = await self.owner(agent_id)
            if owner is None or owner.replica is None or self._gone(owner.replica):
                return
            if asked_for == owner.session:
                # The same as before: its admission was not answered yet.
                await asyncio.sleep(AGAIN_S)
            asked_for = owner.session
            yield self._subjects.replica(owner.replica, "agents"), owner.session

    async def owner(self, agent_id: str) -> Owner | None:
        """Return where the agent was admitted last. Raises OwnerUnknown."""
        try:
            async with asyncio.timeout(OWNER_WITHIN_S):
                return await self._storage.owner(agent_id)
        except (StorageFailed, TimeoutError) as error:
            raise OwnerUnknown(
                "Which server has the agent cannot be read from the database now; try again.",
                retry_after_ms=RETRY_AFTER_MS,
            ) from error


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    """What is above a hub knows no bus, and no process that stores."""
    try:
        yield
    except BusUnavailable as error:
        raise OutOfReach(error.message, retry_after_ms=error.retry_after_ms) from error
    except OwnerCannotStore as error:
        raise StorageUnavailable(error.message, retry_after_ms=error.retry_after_ms) from error


class RemoteAgentStream(AgentStream):
    """A stream of another process's agent.

    Args:
        method: the command.
        stream: its items, as that process passes them on.
        again: asks for it anew where nobody took the first request; raises AgentOffline at last.
    """

    def __init__(
        self, method: str, stream: RemoteStream, again: Callable[[], Awaitable[RemoteStream]]
    ) -> None:
        super().__init__(method)
        self._stream = stream
        self._again = again
        self._ended: AgentError | None = None

    async def text_batches(self) -> AsyncIterator[list[bytes]]:
        """Items that came together, each as JSON text. Raises as the base class says."""
        while True:
            try:
                with _reaching():
                    async for batch in self._stream:
                        yield batch
                return
            # Said before anything came: nothing happened there.
            except (NoResponders, NotHere):
                self._stream = await self._again()
                if self._ended is not None:
                    self._stream.end(self._ended)

    @property
    def result_text(self) -> bytes:
        """The final result as JSON text, once the items have ended."""
        return self._stream.result_text

    def end(self, error: AgentError) -> None:
        """Have the reader raise this."""
        self._ended = error
        self._stream.end(error)
