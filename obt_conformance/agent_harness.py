"""What a check of an agent has at hand: the listener, the admitted session, and a ledger of credit."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from obt_agent.protocol import limits
from obt_conformance.admitted_socket import ON_LINK_CREDIT, AdmittedSocket
from obt_conformance.checks import CheckRegistry, RuleBroken, require
from obt_conformance.deadlines import Deadlines
from obt_conformance.frames import Frame, JsonObject
from obt_conformance.lateness import Lateness
from obt_conformance.listening import AgentListener
from obt_conformance.wire import RawSocket

# Tokens of a generation that outlasts a check.
LONG = 4000
# An agent that waits at the longest delay adds up to half of it.
LONGEST_DELAYS = 1.5
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

    ``overdrawn`` has every frame that came while nothing was left; ``holes`` every wrong ``seq``.
    """

    link: int
    stream: int
    # By ``_key`` of a stream's id: what is left of its window, and the next ``seq``.
    streams: dict[Any, int] = field(default_factory=dict)
    seqs: dict[Any, int] = field(default_factory=dict)
    overdrawn: list[str] = field(default_factory=list)
    holes: list[str] = field(default_factory=list)
    # Bytes on credit altogether.
    received: int = 0

    def charge(self, frame: Frame) -> None:
        """A frame on credit came."""
        if frame.method not in ON_LINK_CREDIT:
            return
        self.received += frame.size
        # One frame may overdraw: it is sent while something is left, whatever its size.
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
        if faults := [*self.overdrawn, *self.holes]:
            raise RuleBroken(faults[0])


def _key(request_id: Any) -> tuple[str, Any]:
    # 1 and "1" are two ids, and 1 and True are equal in Python.
    return type(request_id).__name__, request_id


class KitSession(AdmittedSocket):
    """One admitted socket, with the server's duties done unless a check switches them off.

    Args:
        wire: the socket.
        hello: the agent's.
        result: how it was answered.
    """

    def __init__(self, wire: RawSocket, hello: JsonObject, result: JsonObject) -> None:
        super().__init__(wire, hello)
        # Whether the link's credit is granted back as its frames come.
        self.grant_link = True
        # Streams whose credit is granted back, by ``_key`` of their ids.
        self.granting: set[Any] = set()
        self.ledger = CreditLedger(
            int(result.get("link_credit_bytes", limits.LINK_CREDIT_BYTES)),
            int(result.get("stream_credit_bytes", limits.STREAM_CREDIT_BYTES)),
        )
        wire.on_frame = self._on_frame
        wire.handlers |= dict.fromkeys(SYNCS, lambda _: {})
        wire.handlers["job.part"] = _next_offset
        wire.handlers["job.finished"] = lambda final: {
            name: final.params.get(name) for name in ("job_id", "sha256")
        }

    def _on_frame(self, frame: Frame) -> None:
        self.ledger.charge(frame)
        # Answers and signs of life cost nothing.
        if frame.method not in ON_LINK_CREDIT:
            return
        if self.grant_link:
            self.wire.spawn(self.give_link(frame.size), "conformance grant")
        if frame.method == "stream.data" and _key(frame.params.get("id")) in self.granting:
            self.wire.spawn(self.give_stream(frame.params.get("id"), frame.size), "conformance grant")

    async def give_link(self, size: int) -> None:
        """Grant the link."""
        self.ledger.link += size
        await self.wire.notify("link.credit", {"bytes": size})

    async def give_stream(self, request_id: Any, size: int) -> None:
        """Grant a stream."""
        key = _key(request_id)
        self.ledger.streams[key] = self.ledger.streams.get(key, self.ledger.stream) + size
        await self.wire.notify("stream.credit", {"id": request_id, "bytes": size})

    def good_request(self) -> tuple[str, JsonObject]:
        """See ``AdmittedSocket``."""
        return "running_models", {}

    async def start(self, method: str, params: JsonObject, *, read: bool = True) -> Any:
        """Begin a streamed command; return its id. ``read``: grant credit as its data comes."""
        request_id = self.wire.next_id()
        # Before it is sent: its first data may come at once.
        if read:
            self.granting.add(_key(request_id))
        return await self.wire.post(method, params, request_id)

    def data(self, request_id: Any) -> list[Frame]:
        """``stream.data`` of one stream."""
        return [f for f in self.wire.of("stream.data") if _key(f.params.get("id")) == _key(request_id)]

    async def until_streaming(self, *request_ids: Any) -> None:
        """Wait until each of the streams has brought data.

        Raises:
            RuleBroken: one has not.
        """
        await self.wire.until(lambda: all(map(self.data, request_ids)), "nothing was streamed")

    async def finished(self, request_id: Any) -> Frame:
        """Wait for a stream's final.

        Raises:
            RuleBroken: it is an error, or did not come.
        """
        answer = await self.wire.answer(request_id, "the stream had no final")
        require(answer.error_code is None, f"answered with error {answer.error_code} {answer.error_message}")
        return answer

    async def cancel(self, request_id: Any) -> Frame:
        """Cancel a request; return its final."""
        await self.wire.ask_ok("cancel", {"id": request_id})
        return await self.wire.answer(request_id, "a cancelled request was not answered")


def _next_offset(part: Frame) -> JsonObject:
    end = int(part.params.get("offset", 0)) + len(part_bytes(part))
    return {"job_id": part.params.get("job_id"), "next_offset": end}


def part_bytes(frame: Frame) -> bytes:
    """What a ``job.part`` holds; nothing where it holds no base64."""
    data = str(frame.params.get("data", ""))
    if frame.params.get("encoding", "identity") == "identity":
        return data.encode()
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return b""


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
    redial: Callable[[], Awaitable[object]] | None = None
    # Parameters of every hello, for rules that compare dials.
    hellos: list[JsonObject] = field(default_factory=list)
    # The session that checks share; None after ``end``.
    current: KitSession | None = None
    # Numbers the sessions, as a server does.
    admissions: int = 0
    lateness: Lateness = field(default_factory=Lateness)

    @property
    def slack_s(self) -> float:
        """What a time of the protocol may be exceeded by; it grows while the machine is busy."""
        return self.deadlines.slack_s + self.lateness.allowance_s

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
        # Again and again: one that comes while the agent has not noticed the loss yet changes nothing.
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
        # Before the answer goes out: the agent sends its states right after it.
        self.current = KitSession(wire, hello.params, body)
        await wire.reply(hello, body)
        wire.send_alive_every(self.deadlines.alive_s / 2)
        return self.current

    @contextlib.asynccontextmanager
    async def admitted(self, **result: Any) -> AsyncIterator[KitSession]:
        """A fresh session; it stays for the checks that follow."""
        yield await self.session(fresh=True, **result)

    async def end(self, code: int = 1012) -> None:
        """Close the session, so that the agent dials again."""
        if self.current is not None:
            await self.current.wire.close(code)
            self.current = None

    async def synced(self, session: KitSession) -> None:
        """All three states have come.

        Raises:
            RuleBroken: one has not.
        """
        for method in SYNCS:
            await session.wire.expect(method)

    def generate(self, tokens: int = 0, **more: Any) -> JsonObject:
        """Parameters of a generation, of so many tokens at most (0: as many as the model likes)."""
        options = {"options": {"num_predict": tokens}} if tokens else {}
        return {"model": self.target.model, "prompt": "Count from one.", **options, **more}

    @contextlib.asynccontextmanager
    async def running(self, session: KitSession) -> AsyncIterator[Any]:
        """A long generation in flight that is granted nothing; cancelled on leaving."""
        request_id = await session.start("generate", self.generate(LONG), read=False)
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


# The checks of an agent.
CHECKS: Final[CheckRegistry[AgentHarness]] = CheckRegistry()
