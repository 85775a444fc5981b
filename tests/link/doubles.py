"""What the link is given in tests: credentials in memory, a handler that records, short deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec

from obt_agent.backoff import BackoffSettings
from obt_agent.config.schema import ServerConfig
from obt_agent.identity.credentials import AgentCredential, Credentials
from obt_agent.identity.secret import Secret
from obt_agent.link.connection import Link, LinkEvents
from obt_agent.link.session import LinkSession
from obt_agent.link.timings import LinkTimings
from obt_agent.protocol.admission import AgentIdentity, Empty, HelloParams, HelloResult, VersionRange
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.protocol.envelope import Notification, Request, RequestId
from tests.link.server_double import Peer, ServerDouble
from tests.waiting import until

PATIENCE_S = 20.0
"""No test waits longer for anything; nothing that passes comes near."""

TIMINGS = LinkTimings(
    resolve_s=5,
    connect_s=5,
    proxy_s=5,
    tls_s=5,
    upgrade_s=5,
    hello_s=5,
    alive_s=2,
    silence_s=10,
    stalled_s=10,
    tick_s=0.02,
    close_s=0.5,
    flush_s=2,
    probe_s=1,
    route_poll_s=60,
)
QUICK = BackoffSettings(minimum_s=0.001, maximum_s=0.004)
SLOW = BackoffSettings(minimum_s=3600, maximum_s=3600)
"""Nobody dials again in the time of a test."""


class CredentialsDouble(Credentials):
    """Keeps everything in memory, and what it was told."""

    def __init__(self, secret: str = "canary-secret", *, ever: bool = True) -> None:
        self.stored: AgentCredential | None = AgentCredential(Secret(secret), "stored")
        self.candidate: AgentCredential | None = None
        self.ever = ever
        self.verdicts: list[tuple[str, str]] = []
        self.fail: Exception | None = None

    def for_next_dial(self) -> AgentCredential | None:
        return self.candidate or self.stored

    def admitted(self, credential: AgentCredential, announced: Sequence[str] = ()) -> None:
        self.verdicts.append(("admitted", credential.source))
        if self.fail is not None:
            raise self.fail

    def refused(self, credential: AgentCredential, *, revoked: bool) -> None:
        self.verdicts.append(("revoked" if revoked else "refused", credential.source))
        if credential.source == "candidate":
            self.candidate = None

    def ever_admitted(self, credential: AgentCredential) -> bool:
        return self.ever

    def store_candidate(self, rotation_id: str | None = None) -> str:
        if self.fail is not None:
            raise self.fail
        self.candidate = AgentCredential(Secret(f"candidate-{rotation_id}"), "candidate")
        return self.candidate.sha256


class HandlerDouble:
    """Hands requests to the test, or to the coroutine that the test registered for the method."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[tuple[LinkSession, Request]] = asyncio.Queue()
        self.notifications: list[Notification] = []
        self.ended: list[LinkSession] = []
        self.methods: dict[str, Callable[[LinkSession, Request], Any]] = {}
        self.tasks: set[asyncio.Task[Any]] = set()

    def on_request(self, session: LinkSession, request: Request) -> None:
        method = self.methods.get(request.method)
        if method is None:
            self.requests.put_nowait((session, request))
            return
        task = asyncio.create_task(method(session, request), name=f"handler {request.method}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_notification(self, session: LinkSession, notification: Notification) -> None:
        self.notifications.append(notification)

    def session_ended(self, session: LinkSession) -> None:
        self.ended.append(session)


class LinkRig:
    """A link, and what it is connected to."""

    def __init__(
        self,
        url: str,
        *,
        timings: LinkTimings = TIMINGS,
        backoff: BackoffSettings = QUICK,
        credentials: CredentialsDouble | None = None,
        version: VersionRange = VersionRange(min=1, max=1),  # noqa: B008 - immutable
        budget: ByteBudget | None = None,
        **settings: Any,
    ) -> None:
        self.credentials = credentials or CredentialsDouble()
        self.handler = HandlerDouble()
        self.admitted: asyncio.Queue[tuple[LinkSession, HelloResult]] = asyncio.Queue()
        self.asked: list[Sequence[str]] = []
        self.version = version
        self.link = Link(
            ServerConfig(url=url, **settings),
            credentials=self.credentials,
            events=LinkEvents(
                self.hello,
                lambda session, result: self.admitted.put_nowait((session, result)),
                lambda kinds: self.asked.append(tuple(kinds)),
            ),
            handler=self.handler,
            timings=timings,
            backoff=backoff,
            budget=budget,
        )
        self.running: asyncio.Task[None] | None = None

    def hello(self) -> HelloParams:
        return HelloParams(
            protocol=self.version,
            agent=AgentIdentity(id="0190", name="box", version="0", instance="i-1"),
            store_id="store",
            capabilities=("list_models",),
        )

    async def session(self) -> LinkSession:
        """The next admitted session."""
        assert self.running is not None
        next_ = asyncio.ensure_future(self.admitted.get())
        await asyncio.wait([next_, self.running], return_when=asyncio.FIRST_COMPLETED)
        if not next_.done():
            next_.cancel()
            self.running.result()
            raise AssertionError("the link's loop has ended")
        return next_.result()[0]

    async def until_down(self) -> str:
        """Wait until the link waits; why it does."""
        await until(lambda: self.link.status.state == "waiting")
        return self.link.status.problem or ""


@asynccontextmanager
async def linked(url: str, **more: Any) -> AsyncIterator[LinkRig]:
    """A running link to a server."""
    rig = LinkRig(url, **more)
    rig.running = asyncio.create_task(rig.link.run(), name="link")
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield rig
    finally:
        rig.running.cancel()
        for task in rig.handler.tasks:
            task.cancel()
        await asyncio.gather(rig.running, *rig.handler.tasks, return_exceptions=True)


class Meeting:
    """A link and a server that the test speaks for, with one admitted session."""

    def __init__(self, rig: LinkRig, peer: Peer, session: LinkSession, server: ServerDouble) -> None:
        self.rig = rig
        self.peer = peer
        self.session = session
        self.server = server
        self.handler = rig.handler


@asynccontextmanager
async def meeting(*, hello: dict[str, Any] | None = None, **more: Any) -> AsyncIterator[Meeting]:
    """An admitted session, with the server's side in the test's hands."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    over = asyncio.Event()

    async def hand_over(peer: Peer) -> None:
        await peer.admit(**(hello or {}))
        peers.put_nowait(peer)
        await over.wait()

    async with ServerDouble(hand_over) as server, linked(server.url, **more) as rig:
        session = await rig.session()
        try:
            yield Meeting(rig, await peers.get(), session, server)
        finally:
            over.set()


def shorter(**changes: float) -> LinkTimings:
    """The tests' deadlines, some of them changed."""
    return replace(TIMINGS, **changes)


def item(number: int, text: str = "x") -> tuple[int, list[bytes]]:
    """A chunk as Ollama sends it, and when it arrived."""
    return number, [msgspec.json.encode({"response": text})]


async def never(session: LinkSession, request: Request) -> None:
    """A handler that does not answer."""
    await asyncio.Event().wait()


async def at_once(session: LinkSession, request: Request) -> None:
    """A handler that answers at once."""
    session.respond(request.id, Empty())


def answer_of(frames: list[dict[str, Any]], request_id: RequestId) -> dict[str, Any]:
    """The answer among frames."""
    return next(frame for frame in frames if frame.get("id") == request_id and "method" not in frame)
