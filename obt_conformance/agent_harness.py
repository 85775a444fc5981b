"""What a check of an agent has at hand: the listener, the admitted session, and a ledger of credit."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from obt_agent.protocol import limits
from obt_conformance.checks import RuleBroken
from obt_conformance.deadlines import Deadlines
from obt_conformance.listening import AgentListener, Refuse
from obt_conformance.wire import Frame, JsonObject, RawSocket

ON_LINK_CREDIT = frozenset(
    {"stream.data", "models.sync", "hardware.sync", "jobs.sync", "job.part", "job.finished"}
)
LONGEST_DELAYS = 1.5
"""An agent that waits at the longest delay adds up to half of it."""
SYNCS = ("models.sync", "hardware.sync", "jobs.sync")


@dataclass(frozen=True)
class AgentTarget:
    """What is known of the agent under test.

    Args:
        model: a model that its Ollama has, and that its policy allows.
        embed_model: one that embeds.
    """

    model: str
    embed_model: str


@dataclass
class CreditLedger:
    """Balances as the receiver knows them, never below the sender's: a grant counts when it goes out.

    ``overdrawn`` tells every frame that came while nothing was left; ``holes`` every wrong ``seq``.
    """

    link: int
    stream: int
    streams: dict[Any, int] = field(default_factory=dict)
    seqs: dict[Any, int] = field(default_factory=dict)
    overdrawn: list[str] = field(default_factory=list)
    holes: list[str] = field(default_factory=list)
    received: int = 0

    def charge(self, frame: Frame) -> None:
        """A frame on credit came."""
        if frame.method not in ON_LINK_CREDIT:
            return
        self.received += frame.size
        if self.link <= 0:
            self.overdrawn.append(f"{frame.method} of {frame.size} bytes came with {self.link} on the link")
        self.link -= frame.size
        if frame.method == "stream.data":
            self._charge_stream(frame)

    def _charge_stream(self, frame: Frame) -> None:
        key = _key(frame.params.get("id"))
        left = self.streams.get(key, self.stream)
        if left <= 0:
            self.overdrawn.append(f"stream.data of {frame.size} bytes came with {left} on the stream")
        self.streams[key] = left - frame.size
        expected = self.seqs.get(key, 0)
        if frame.params.get("seq") != expected:
            self.holes.append(f"seq {frame.params.get('seq')} came, {expected} was due")
        self.seqs[key] = expected + 1

    def check_clean(self) -> None:
        """Nothing was overdrawn, no ``seq`` was wrong.

        Raises:
            RuleBroken: something was.
        """
        if self.overdrawn:
            raise RuleBroken(self.overdrawn[0])
        if self.holes:
            raise RuleBroken(self.holes[0])


def _key(request_id: Any) -> tuple[str, Any]:
    return type(request_id).__name__, request_id


class KitSession:
    """One admitted socket, with the server's duties done unless a check switches them off.

    Args:
        wire: the socket.
        hello: the agent's.
        result: how it was answered.
    """

    def __init__(self, wire: RawSocket, hello: Frame, result: JsonObject) -> None:
        self.wire = wire
        self.hello = hello
        self.grant_link = True
        self.granting: set[Any] = set()
        self.ledger = CreditLedger(
            int(result.get("link_credit_bytes", limits.LINK_CREDIT_BYTES)),
            int(result.get("stream_credit_bytes", limits.STREAM_CREDIT_BYTES)),
        )
        self._grants: set[asyncio.Task[None]] = set()
        wire.on_frame = self._on_frame
        for method in SYNCS:
            wire.handlers[method] = _empty
        wire.handlers["job.part"] = _next_offset
        wire.handlers["job.finished"] = _acknowledge

    def _on_frame(self, frame: Frame) -> None:
        self.ledger.charge(frame)
        if frame.method not in ON_LINK_CREDIT:
            return
        if self.grant_link:
            self._spawn(self.give_link(frame.size))
        if frame.method == "stream.data" and _key(frame.params.get("id")) in self.granting:
            self._spawn(self.give_stream(frame.params.get("id"), frame.size))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work, name="conformance grant")
        self._grants.add(task)
        task.add_done_callback(self._grants.discard)

    async def give_link(self, size: int) -> None:
        """Grant the link."""
        self.ledger.link += size
        await self.wire.notify("link.credit", {"bytes": size})

    async def give_stream(self, request_id: Any, size: int) -> None:
        """Grant a stream."""
        key = _key(request_id)
        self.ledger.streams[key] = self.ledger.streams.get(key, self.ledger.stream) + size
        await self.wire.notify("stream.credit", {"id": request_id, "bytes": size})

    async def start(self, method: str, params: JsonObject, *, read: bool = True) -> Any:
        """Begin a streamed command; gives its id. ``read``: grant credit as its data comes."""
        request_id = self.wire.next_id()
        if read:
            self.granting.add(_key(request_id))
        return await self.wire.post(method, params, request_id)

    def data(self, request_id: Any) -> list[Frame]:
        """``stream.data`` of one stream."""
        return [f for f in self.wire.of("stream.data") if _key(f.params.get("id")) == _key(request_id)]

    async def cancel(self, request_id: Any) -> None:
        """Cancel a request, and wait for its final."""
        await self.wire.ask("cancel", {"id": request_id})
        await self.wire.answer(request_id, "a cancelled request was not answered")


async def _empty(_: Frame) -> JsonObject:
    return {}


async def _next_offset(frame: Frame) -> JsonObject:
    end = int(frame.params.get("offset", 0)) + len(part_bytes(frame))
    return {"job_id": frame.params.get("job_id"), "next_offset": end}


def part_bytes(frame: Frame) -> bytes:
    """What a ``job.part`` holds; nothing where it holds no base64."""
    data = str(frame.params.get("data", ""))
    if frame.params.get("encoding", "identity") == "identity":
        return data.encode()
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return b""


async def _acknowledge(frame: Frame) -> JsonObject:
    return {"job_id": frame.params.get("job_id"), "sha256": frame.params.get("sha256")}


@dataclass
class AgentHarness:
    """One kit's view of the agent; checks run one after the other on the same session where they can.

    Args:
        target: what is known of the agent.
        listener: where it dials.
        deadlines: how long to wait.
        redial: makes the agent dial now (as SIGHUP does), where it can be made to.
    """

    target: AgentTarget
    listener: AgentListener
    deadlines: Deadlines
    redial: Callable[[], Awaitable[None]] | None = None
    hellos: list[JsonObject] = field(default_factory=list)
    current: KitSession | None = None
    admissions: int = 0

    async def session(self, *, fresh: bool = False, **result: Any) -> KitSession:
        """The admitted session; another one with ``fresh`` or when the last has ended.

        Raises:
            RuleBroken: the agent does not dial, or does not open with a hello.
        """
        if fresh:
            await self.end()
        if self.current is None or self.current.wire.closed is not None:
            wire, hello = await self.greeted()
            self.current = await self.admit(wire, hello, **result)
        return self.current

    async def dialled(self) -> RawSocket:
        """The agent's next socket.

        Raises:
            RuleBroken: it does not dial.
        """
        limit = LONGEST_DELAYS * self.deadlines.reconnect_s + self.deadlines.slack_s
        redialling = asyncio.create_task(self._redial_repeatedly(), name="conformance redial")
        try:
            return await self.listener.next(limit)
        finally:
            redialling.cancel()
            await asyncio.gather(redialling, return_exceptions=True)

    async def _redial_repeatedly(self) -> None:
        while self.redial is not None:
            await asyncio.sleep(0.3)
            await self.redial()

    async def greeted(self) -> tuple[RawSocket, Frame]:
        """The agent's next socket, and its hello.

        Raises:
            RuleBroken: it does not dial, or says nothing.
        """
        wire = await self.dialled()
        hello = await wire.expect("agent.hello", within_s=self.deadlines.hello_s)
        self.hellos.append(hello.params)
        return wire, hello

    async def admit(self, wire: RawSocket, hello: Frame, **result: Any) -> KitSession:
        """Answer the hello."""
        self.admissions += 1
        body = {"protocol": 1, "session": self.admissions, **result}
        session = KitSession(wire, hello, body)
        await wire.send({"jsonrpc": "2.0", "id": hello.id, "result": body})
        wire.send_alive_every(self.deadlines.alive_s / 2)
        self.current = session
        return session

    async def end(self, code: int = 1012) -> None:
        """Close the session, so that the agent dials again."""
        if self.current is not None:
            await self.current.wire.close(code)
            self.current = None

    def refuse_next(self, status: int, *headers: tuple[str, str]) -> None:
        """Answer the next upgrade with a status."""
        self.listener.refusals.append(Refuse(status, headers))

    async def synced(self, session: KitSession) -> None:
        """All three states have come.

        Raises:
            RuleBroken: one has not.
        """
        for method in SYNCS:
            await session.wire.expect(method)

    def generate(self, **more: Any) -> JsonObject:
        """Parameters of a generation."""
        return {"model": self.target.model, "prompt": "Count from one.", **more}

    @contextlib.asynccontextmanager
    async def running(self, session: KitSession, *, read: bool = False) -> Any:
        """A long generation in flight; cancelled on leaving."""
        options = {"num_predict": 4000}
        request_id = await session.start("generate", self.generate(options=options), read=read)
        try:
            yield request_id
        finally:
            if session.wire.closed is None and not session.wire.answers(request_id):
                await session.cancel(request_id)

    def plan(self, **more: Any) -> JsonObject:
        """A benchmark of a moment."""
        return {
            "model_name": self.target.model,
            "num_iterations": 1,
            "warmup_iterations": 0,
            "cooldown_s": 0,
            "prompt_config": {"prompt_tokens": 16, "completion_tokens": 8},
            **more,
        }


def sha256(text: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(text).hexdigest()
