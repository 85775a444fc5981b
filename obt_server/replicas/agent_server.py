"""What other processes may ask of the agents of this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from obt_agent.errors import ProtocolError
from obt_server.bus import ReplySink
from obt_server.hub import AgentHub, Viewer
from obt_server.replica_storage import LeaderLease
from obt_server.replicas.admissions import FleetStorage
from obt_server.replicas.errors import NotHere, OwnerCannotStore
from obt_server.replicas.fence import LeaseFence
from obt_server.replicas.messages import (
    ALIVE,
    Asked,
    CallText,
    CancelJob,
    OpenStream,
    Probe,
    Rotate,
    StartJob,
    ToAgent,
    WatchBenchmark,
    WatchHardware,
)
from obt_server.storage import StorageUnavailable

_decoder: Final = msgspec.msgpack.Decoder(ToAgent)


class AgentServer:
    """Answers for the agents whose sessions this process has.

    Args:
        hub: the hub of this process.
        storage: says whether a leader that starts something still leads.
    """

    def __init__(self, hub: AgentHub, storage: FleetStorage) -> None:
        self._hub = hub
        self._storage = storage

    async def handle(self, body: bytes, reply: ReplySink) -> bytes:
        """Do what another process asks; see ``obt_server.bus.ExchangeHandler``.

        Raises:
            NotHere: the session is not here (any more); nothing was done.
            OwnerCannotStore: the database does not answer.
            AgentError: as the hub.
        """
        try:
            to = _decoder.decode(body)
        # Of another release, while one server after the other is replaced.
        except msgspec.MsgspecError as error:
            raise ProtocolError("The other server process asked for what this one does not know.") from error
        presence = self._hub.presence(to.agent_id)
        # Whoever asked read of an older session, or of one that is not answered yet.
        if presence is None or presence.session != to.session:
            raise NotHere("The agent is not connected here.")
        try:
            return await self._answer(to.agent_id, to.asked, reply)
        except StorageUnavailable as error:
            raise OwnerCannotStore(error.message, retry_after_ms=error.retry_after_ms) from error

    async def _answer(self, agent_id: str, asked: Asked, reply: ReplySink) -> bytes:
        hub = self._hub
        match asked:
            case CallText():
                fence, within_s = self._fence(asked.lease), asked.timeout_s
                text = await hub.call_text(
                    agent_id, asked.method, asked.params, timeout_s=within_s, fence=fence
                )
            case OpenStream():
                text = await self._stream(agent_id, asked, reply)
            case WatchHardware():
                async with hub.watch_hardware(agent_id, asked.interval_ms) as viewer:
                    text = await _pass_on(viewer, reply)
            case WatchBenchmark():
                async with hub.watch_benchmark(agent_id, asked.job_id) as viewer:
                    text = await _pass_on(viewer, reply)
            case StartJob():
                fence = self._fence(asked.lease)
                text = _encode(await hub.start_job(agent_id, asked.method, asked.params, fence=fence))
            case CancelJob():
                text = _encode(await hub.cancel_job(agent_id, asked.job_id))
            case Rotate():
                made = await hub.rotate(agent_id, asked.rotation_id, reconnect=asked.reconnect)
                text = made.encode()
            case _:
                text = await self._probe(agent_id, asked)
        return text

    def _fence(self, lease: LeaderLease | None) -> LeaseFence | None:
        return None if lease is None else LeaseFence(self._storage.fenced(lease), lease)

    async def _stream(self, agent_id: str, asked: OpenStream, reply: ReplySink) -> bytes:
        async with self._hub.stream(agent_id, asked.method, asked.params) as stream:
            async for batch in stream.text_batches():
                await reply.send(*batch)
            return stream.result_text

    async def _probe(self, agent_id: str, asked: Probe) -> bytes:
        presence = self._hub.presence(agent_id)
        # A redial of the same process: its old socket is dead, whatever it looks like here.
        if presence is None or presence.instance == asked.instance:
            return b""
        return ALIVE if await self._hub.probe(agent_id) else b""


async def _pass_on(viewer: Viewer, reply: ReplySink) -> bytes:
    async for _, text in viewer.texts():
        await reply.send(text)
    return b""


_encode: Final[Callable[[msgspec.Struct], bytes]] = msgspec.json.encode
